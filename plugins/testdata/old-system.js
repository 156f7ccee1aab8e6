// The login endpoint of a system that was there before, for the tests of
// http-bridge: by https, with what it was asked in a form or as JSON. Its first line
// of output is its port.
const https = require("https"), fs = require("fs"), querystring = require("querystring")

const people = {alice: "wonderland", "b&b=\"é\"": "p\\w&ü=\u2028", carol: "sings"}

https.createServer({key: fs.readFileSync(process.argv[2]), cert: fs.readFileSync(process.argv[3])}, (request, response) => {
	let body = ""
	request.on("data", piece => body += piece)
	request.on("end", () => {
		const say = (status, what, headers) => {
			response.writeHead(status, Object.assign({"content-type": "application/json"}, headers))
			response.end(typeof what === "string" ? what : JSON.stringify(what))
		}
		if (request.headers["x-key"] !== "hot-pepper") return say(403, {error: "no key"})
		const form = request.headers["content-type"] === "application/x-www-form-urlencoded"
		const asked = form ? querystring.parse(body) : JSON.parse(body || "{}")
		switch (request.url) {
		case "/login":
			if (asked.user === "dave") return say(423, {error: "locked"})
			if (people[asked.user] !== asked.pass) return say(401, {error: "wrong"})
			if (asked.user === "carol") return say(200, {mfa: "required", ticket: "t-17"})
			return say(200, {ok: true, person: {id: asked.user.length, roles: ["staff", asked.from]}})
		case "/code":
			return asked.ticket === "t-17" && asked.code === "246810" ? say(200, {ok: true, person: {id: 5, roles: []}}) : say(401, {})
		case "/page":
			return people[asked.user] === asked.pass ? say(302, "", {location: "/home"}) : say(302, "", {location: "/login?error=1"})
		case "/broken":
			return say(500, {ok: true})
		case "/silent":
			return
		}
		say(404, {})
	})
}).listen(0, "127.0.0.1", function () { console.log(this.address().port) })
process.stdin.on("end", () => process.exit(0)).resume() // ends with the test
