package blackbox

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVolumesFrom(t *testing.T) {
	e := newBox(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.MustViv("create", "--name", "donor", "-v", "named:/named", "-v", "/anonymous", "-v", dir+":/bound:ro", "--tmpfs", "/scratch", box, "true")
	e.MustViv("create", "--name", "other", "-v", "second:/named", "-v", "second:/second", box, "true")
	check(t, e, []runCase{
		{name: "written", flags: []string{"--volumes-from", "donor"}, command: "echo n > /named/n && echo a > /anonymous/a && cat /bound/file && ! test -e /scratch", stdout: "of the host\n"},
		{name: "read by the next", flags: []string{"--volumes-from", "donor"}, command: "cat /named/n /anonymous/a", stdout: "n\na\n"},
		{name: "read-only stays so", flags: []string{"--volumes-from", "donor"}, command: "(: > /bound/new) 2>/dev/null || echo no", stdout: "no\n"},
		{name: "ro", flags: []string{"--volumes-from", "donor:ro"}, command: "cat /named/n; (: > /named/new) 2>/dev/null || echo no", stdout: "n\nno\n"},
		{name: "rw", flags: []string{"--volumes-from", "donor:rw"}, command: "echo m > /named/m; cat /named/m", stdout: "m\n"},
		{name: "its own mount stands before", flags: []string{"--volumes-from", "donor", "-v", "mine:/named"}, command: "ls /named; ls /anonymous", stdout: "a\n"},
		{name: "its anonymous volume gives way", flags: []string{"--volumes-from", "donor", "-v", "/named"}, command: "cat /named/n", stdout: "n\n"},
		{name: "two", flags: []string{"--volumes-from", "donor", "--volumes-from", "other"}, command: "ls -d /second /anonymous", stdout: "/anonymous\n/second\n"},
	})
	fails(t, e.Viv("run", "--rm", "--volumes-from", "nobody", box, "true"), 125, "nobody")
	fails(t, e.Viv("run", "--rm", "--volumes-from", "donor:zz", box, "true"), 125, "mode", "zz")

	// The mounts stay when the donor has gone, and are the donor's no more.
	e.MustViv("create", "--name", "heir", "--volumes-from", "donor", box, "cat", "/named/n")
	e.MustViv("rm", "donor")
	want(t, e.Viv("start", "-a", "heir"), 0, "n\n")
	want(t, e.Viv("start", "-a", "heir"), 0, "n\n")
	e.MustViv("rm", "heir", "other")
}
