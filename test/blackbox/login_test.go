package blackbox

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// guarded serves a registry that wants a user name and a password for everything.
func guarded(t *testing.T, e *testenv.Instance) (ref, host string) {
	t.Helper()
	ref = pushed(t, e, "busybox", &trouble{handle: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if user, password, ok := r.BasicAuth(); !ok || user != "app" || password != "s3:cret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	}})
	host, _, _ = strings.Cut(ref, "/")
	return ref, host
}

// TestLogin logs in and out, with the credentials in Docker's file.
func TestLogin(t *testing.T) {
	testenv.Root(t)
	e := testenv.Engine(t)
	ref, host := guarded(t, e)
	home := t.TempDir()
	run := func(stdin string, args ...string) testenv.Result {
		cmd := e.Command(args...)
		cmd.Env = []string{"HOME=" + home, "DOCKER_CONFIG="}
		if stdin != "" {
			cmd.Stdin = strings.NewReader(stdin)
		}
		return cmd.Run()
	}
	t.Cleanup(func() { e.Viv("rmi", ref) })
	pull := func() testenv.Result { return run("", "pull", "-q", ref) }
	config := filepath.Join(home, ".docker/config.json")

	fails(t, run("", "login", host), 1, "non tty device")
	fails(t, run("s3:cret\n", "login", "--password-stdin", host), 1, "must provide --username")
	fails(t, run("", "login", "-u", "app", "-p", "x", "--password-stdin", host), 1, "mutually exclusive")
	fails(t, run("wrong\n", "login", "-u", "app", "--password-stdin", host), 1, host, "unauthorized")
	if _, err := os.Stat(config); err == nil {
		t.Error("refused credentials were kept")
	}
	fails(t, pull(), 1)
	if res := run("s3:cret\n", "login", "-u", "app", "--password-stdin", host); res.Code != 0 || res.Stdout != "Login Succeeded\n" || !strings.Contains(res.Stderr, "unencrypted") {
		t.Fatalf("login: %v", res)
	}
	if st, err := os.Stat(config); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v, %v", config, st, err)
	}
	if text := read(t, config); !strings.Contains(text, host) || strings.Contains(text, "s3:cret") {
		t.Errorf("%s holds %s", config, text)
	}
	if res := pull(); res.Code != 0 {
		t.Errorf("pull after login: %v", res)
	}
	if res := run("", "login", host); res.Code != 0 || !strings.Contains(res.Stdout, "Authenticating with existing credentials...\n") {
		t.Errorf("login again: %v", res)
	}
	want(t, run("", "logout", host), 0, "Removing login credentials for "+host+"\n")
	fails(t, pull(), 1)
	if !testenv.Reference() { // Docker says the same as before
		want(t, run("", "logout", host), 0, "Not logged in to "+host+"\n")
	}
	fails(t, run("b", "login", "-u", "a", "--password-stdin", "127.0.0.1:1"), 1, "127.0.0.1:1", "refused")
	if res := e.Command("login", "one", "two").Run(); res.Code == 0 || !strings.Contains(res.Stderr, "at most 1 argument") {
		t.Errorf("login to two: %v", res)
	}
	// A file that cannot be read is not overwritten.
	if testenv.Reference() {
		return // 20.10 warns and goes on
	}
	if err := os.WriteFile(config, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, run("s3:cret\n", "login", "-u", "app", "--password-stdin", host), 1, "config.json")
	if got := read(t, config); got != "{" {
		t.Errorf("a broken file became %q", got)
	}
}

// TestLoginAtATerminal types user name and password.
func TestLoginAtATerminal(t *testing.T) {
	testenv.Root(t)
	e := testenv.Engine(t)
	_, host := guarded(t, e)
	cmd := e.Command("login", host)
	cmd.Env = []string{"HOME=" + t.TempDir(), "DOCKER_CONFIG="}
	cmd.Terminal = true
	p := cmd.Start()
	p.Expect("Username: ")
	p.Type("app\n")
	p.Expect("Password: ")
	p.Type("s3:cret\n")
	p.Expect("Login Succeeded")
	if res := p.Wait(); res.Code != 0 || strings.Contains(res.Stdout, "s3:cret") {
		t.Errorf("login: %v", res)
	}
}

// helper is a credential helper that keeps one set of credentials in a file.
const helper = `#!/bin/sh
case $1 in
store) cat >"$STORE" ;;
get) read -r server; [ -e "$STORE" ] && grep -q "$server" "$STORE" && cat "$STORE" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f "$STORE" ;;
list) echo '{}' ;;
esac
`

// TestCredentialHelper keeps credentials with a helper, and not in the file.
func TestCredentialHelper(t *testing.T) {
	testenv.Root(t)
	e := testenv.Engine(t)
	ref, host := guarded(t, e)
	dir := t.TempDir()
	for name, file := range map[string]struct {
		text string
		mode os.FileMode
	}{"docker-credential-viv-test": {helper, 0o755}, "config.json": {`{"credHelpers":{"` + host + `":"viv-test"}}`, 0o600}} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(file.text), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	run := func(stdin string, args ...string) testenv.Result {
		cmd := e.Command(args...)
		cmd.Env = []string{"DOCKER_CONFIG=" + dir, "STORE=" + filepath.Join(dir, "store"), "PATH=" + dir + ":" + os.Getenv("PATH")}
		cmd.Stdin = strings.NewReader(stdin)
		return cmd.Run()
	}
	t.Cleanup(func() { e.Viv("rmi", ref) })
	if res := run("s3:cret", "login", "-u", "app", "--password-stdin", host); res.Code != 0 || res.Stdout != "Login Succeeded\n" || strings.Contains(res.Stderr, "unencrypted") {
		t.Fatalf("login: %v", res)
	}
	if text := read(t, filepath.Join(dir, "store")); !strings.Contains(text, "s3:cret") {
		t.Errorf("the helper got %q", text)
	}
	if text := read(t, filepath.Join(dir, "config.json")); strings.Contains(text, `"auth"`) {
		t.Errorf("the file has the credentials too: %s", text)
	}
	if res := run("", "pull", "-q", ref); res.Code != 0 {
		t.Errorf("pull: %v", res)
	}
	want(t, run("", "logout", host), 0, "Removing login credentials for "+host+"\n")
	if _, err := os.Stat(filepath.Join(dir, "store")); err == nil {
		t.Error("the helper still has the credentials")
	}
	fails(t, run("", "pull", "-q", ref), 1)
}
