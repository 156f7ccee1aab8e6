package tenants

import (
	"net/url"
	"slices"
	"strings"
)

// ReturnTo decides where a sign-in may lead. raw is what a link asked for and
// is never echoed: the answer is built anew from its parts, and is either a
// path of this tenant, under base ("" at the tenant's own host, "/t/{id}" under
// the shared one), or an absolute URL at the origin of one of its apps.
//
// With app set, only that app counts: its return URLs when it lists any (the
// same but for what the list itself does not say), or else any path of its
// origin. Without raw, the app's origin is the answer.
func (t Tenant) ReturnTo(base, raw, app string) (string, bool) {
	apps := t.Apps
	if app != "" {
		i := slices.IndexFunc(apps, func(a App) bool { return a.ID == app })
		if i < 0 {
			return "", false
		}
		apps = apps[i : i+1]
	}
	if raw == "" {
		if app == "" {
			return "", false
		}
		return apps[0].home(), true
	}
	if len(raw) > 2048 || !plain(raw) {
		return "", false
	}
	if strings.HasPrefix(raw, "/") {
		return ownPath(base, raw)
	}
	u, err := absolute(raw)
	if err != nil || !strings.HasPrefix(strings.ToLower(raw), u.Scheme+"://") {
		return "", false // "https:/host" means another thing to a browser
	}
	for _, a := range apps {
		if a.allows(u) {
			return u.String(), true
		}
	}
	return "", false
}

// home is where an app begins.
func (a App) home() string {
	if len(a.ReturnURLs) > 0 {
		return a.ReturnURLs[0]
	}
	return a.Origin + "/"
}

func (a App) allows(u *url.URL) bool {
	if originOf(u) != a.Origin {
		return false
	}
	return len(a.ReturnURLs) == 0 || slices.Contains(a.ReturnURLs, u.String())
}

// ownPath takes a path of this tenant's own pages. A percent sign is refused
// along with dot segments: whoever decodes it may see another path.
func ownPath(base, raw string) (string, bool) {
	u, err := url.Parse(raw)
	if err != nil || u.IsAbs() || strings.HasPrefix(raw, "//") || u.User != nil || u.Fragment != "" || strings.Contains(raw, "#") {
		return "", false
	}
	if strings.Contains(u.EscapedPath(), "%") || strings.Contains(u.Path, "//") || strings.Contains(u.Path, ";") {
		return "", false
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return "", false
		}
	}
	if base != "" && u.Path != base && !strings.HasPrefix(u.Path, base+"/") {
		return "", false // another tenant lives there
	}
	own := url.URL{Path: u.Path, RawQuery: u.RawQuery}
	if strings.Contains(own.EscapedPath(), "%") {
		return "", false // "!" and the like, which some escape: the answer must be one that is taken again
	}
	return own.String(), true
}
