#!/usr/bin/env bash
# Three nodes and a load balancer on this machine: make cluster. Their data is in
# cluster/ of the repository, one directory each; Ctrl-C ends all of them, and the
# next start finds them as they were. The balancer knows nothing of sessions.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD/cluster
program=$PWD/bin/doorward
nginx=$(command -v nginx || ls /usr/sbin/nginx 2>/dev/null || true)
if [ -z "$nginx" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "the load balancer is nginx, which is not installed; as root, run: apt-get install --no-install-recommends nginx-light" >&2
		exit 1
	fi
	echo "installing nginx-light"
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light >/dev/null
	nginx=/usr/sbin/nginx
fi

umask 077
mkdir -p "$dir"
for n in 1 2 3; do
	mkdir -p "$dir/$n"
	# What orchestrators hand to every member before its first start.
	if [ $n = 1 ] && [ ! -e "$dir/1/keyring" ]; then
		"$program" keyring create "$dir/1/keyring" >/dev/null
		"$program" cluster authority "$dir/1/authority.pem" >/dev/null
	fi
	for f in keyring authority.pem; do
		[ -e "$dir/$n/$f" ] || cp "$dir/1/$f" "$dir/$n/$f"
	done
	cat >"$dir/$n/node.yaml" <<-EOF
		data_dir: $dir/$n/data
		listen: 127.0.0.1:849$n
		admin_listen: 127.0.0.1:848$n
		public_url: http://127.0.0.1:8480
		keyring: {file: $dir/$n/keyring}
		log: {format: text}
		cluster:
		  name: n$n
		  listen: 127.0.0.1:850$n
		  control: 127.0.0.1:851$n
		  authority: $dir/$n/authority.pem
		  initial:
		    n1: https://127.0.0.1:8501
		    n2: https://127.0.0.1:8502
		    n3: https://127.0.0.1:8503
	EOF
done
cat >"$dir/nginx.conf" <<EOF
daemon off;
pid $dir/nginx.pid;
error_log $dir/nginx.log warn;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path $dir/nginx-body;
	proxy_temp_path $dir/nginx-proxy;
	fastcgi_temp_path $dir/nginx-unused;
	uwsgi_temp_path $dir/nginx-unused;
	scgi_temp_path $dir/nginx-unused;
	# None is ever taken for dead: one that answers 503 says that nobody can decide.
	upstream doorward {
		server 127.0.0.1:8491 max_fails=0;
		server 127.0.0.1:8492 max_fails=0;
		server 127.0.0.1:8493 max_fails=0;
		keepalive 64;
	}
	server {
		listen 127.0.0.1:8480;
		location / {
			proxy_pass http://doorward;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host \$http_host;
			proxy_set_header X-Forwarded-For \$remote_addr;
			proxy_set_header X-Forwarded-Proto \$scheme;
			proxy_connect_timeout 1s;
			proxy_read_timeout 15s;
			# Another node is asked where one is gone or cannot tell; what changes
			# something is sent again only if it never left.
			proxy_next_upstream error timeout http_503;
			proxy_next_upstream_tries 3;
			proxy_next_upstream_timeout 5s;
			error_page 502 504 =503 /unavailable;
		}
		# The last that was asked was gone: for who asks, as if it could not tell.
		location = /unavailable {
			internal;
			default_type application/problem+json;
			add_header Retry-After 1 always;
			return 503 '{"type":"about:blank","title":"Service Unavailable","status":503,"code":"unavailable","detail":"No node answers. Try again."}';
		}
	}
}
EOF

pids=()
end() {
	trap - EXIT INT TERM
	kill "${pids[@]}" 2>/dev/null || true
	wait
}
trap end EXIT INT TERM
for n in 1 2 3; do
	"$program" serve --config "$dir/$n/node.yaml" >"$dir/$n/out" 2>>"$dir/$n/log" &
	pids+=($!)
	echo $! >"$dir/$n/pid"
done
"$nginx" -p "$dir" -c "$dir/nginx.conf" -e "$dir/nginx.log" &
pids+=($!)
for n in 1 2 3; do
	until curl -sf "http://127.0.0.1:848$n/readyz" >/dev/null; do
		if ! kill -0 "$(cat "$dir/$n/pid")" 2>/dev/null; then
			echo "node $n has ended; $dir/$n/log says why:" >&2
			tail -n 5 "$dir/$n/log" >&2
			exit 1
		fi
		sleep 0.2
	done
done
echo "ready public=http://127.0.0.1:8480 admin=http://127.0.0.1:8481,8482,8483 key=$dir/1/data/operator.key"
echo "A node by hand: kill -9 \$(cat $dir/2/pid); $program serve --config $dir/2/node.yaml"
wait "${pids[3]}"
