package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestClosure(t *testing.T) {
	dep := "kernel/a.ko: kernel/b-b.ko kernel/c.ko\nkernel/b-b.ko: kernel/c.ko\nkernel/c.ko:\n"
	builtin := "kernel/in.ko\n"
	got, err := closure([]byte(dep), []byte(builtin), []string{"a", "in", "b_b"})
	want := []string{"kernel/c.ko", "kernel/b-b.ko", "kernel/a.ko"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := closure([]byte(dep), []byte(builtin), []string{"missing"}); err == nil {
		t.Error("a module that the kernel does not have was taken")
	}
}

// TestArchive has busybox unpack what the writer wrote.
func TestArchive(t *testing.T) {
	var buf bytes.Buffer
	a := newArchive(&buf)
	for _, err := range []error{
		a.text("deep/down/text", "hello\n", 0o640),
		a.symlink("deep/link", "down/text"),
		a.directory("tmp", 0o1777),
		a.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	cmd := exec.Command("/bin/busybox", "cpio", "-idm")
	cmd.Dir, cmd.Stdin = dir, &buf
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "deep/link"))
	if err != nil || string(text) != "hello\n" {
		t.Errorf("read %q, %v", text, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "deep/down/text")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode: %v, %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "tmp")); err != nil || info.Mode()&os.ModeSticky == 0 {
		t.Errorf("sticky bit: %v, %v", info, err)
	}
}

func TestArchiveRefusesAFileThatChanges(t *testing.T) {
	a := newArchive(&bytes.Buffer{})
	if err := a.member("short", 0o644, 10, strings.NewReader("four")); err == nil {
		t.Error("a file shorter than its header says was packed")
	}
}

func TestParse(t *testing.T) {
	const v = "\x16"
	root, err := parse(v + "=== RUN   TestA\n" + v + "=== RUN   TestA/one\n    a.go:1: why\n" +
		v + "--- SKIP: TestA (0.00s)\n    " + v + "--- SKIP: TestA/one (0.00s)\n" +
		v + "=== RUN   TestB\npanic: out\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(root.children) != 2 {
		t.Fatalf("%d tests at the top, want 2", len(root.children))
	}
	a, b := root.children[0], root.children[1]
	if len(a.children) != 1 || a.children[0].name != "one" || a.children[0].action != "skip" {
		t.Errorf("TestA: %+v", a)
	}
	if b.action == "pass" || !strings.Contains(b.output.String(), "panic: out") {
		t.Errorf("TestB, which never ended: %q %q", b.action, b.output.String())
	}
}
