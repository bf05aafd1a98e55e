package blackbox

import (
	"testing"

	"vivarium/internal/kernel"
)

// TestUserNamespace: root of the container is another user outside, the image's
// files still are root's, and the layers were not copied for it.
func TestUserNamespace(t *testing.T) {
	e := newBox(t)
	vivOnly(t, "docker maps users for the whole daemon")
	if err := kernel.OverlayAppend(); err != nil {
		t.Skipf("a user namespace needs its layers one by one: %v", err)
	}
	flags := []string{"--userns", "private", "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"}
	script := "id -u; stat -c %u /bin/busybox; echo x >/new && stat -c %u /new; tr -s ' ' </proc/self/uid_map"
	for _, network := range []string{"none", "bridge"} {
		args := append(append([]string{"run", "--rm", "--network", network}, flags...), box, "sh", "-c", script)
		want(t, e.Viv(args...), 0, "0\n0\n0\n 0 100000 65536\n")
	}
	e.MustViv(append(append([]string{"run", "-d", "--name", "mapped"}, flags...), box, "sleep", "1000")...)
	want(t, e.Viv("exec", "mapped", "sh", "-c", "id -u; touch /made; stat -c %u /made"), 0, "0\n0\n")
	want(t, e.Viv("diff", "mapped"), 0, "A /made\n")
}
