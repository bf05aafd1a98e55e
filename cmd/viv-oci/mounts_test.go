package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func ids(container, host, size uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: size}}
}

// userNS gives the container a user namespace, and the rootfs to its root.
func (b *box) userNS(host uint32) {
	b.t.Helper()
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids(0, host, 65536), ids(0, host, 65536)
	must(b.t, filepath.WalkDir(filepath.Join(b.bundle, "rootfs"), func(path string, _ os.DirEntry, err error) error {
		must(b.t, err)
		return os.Lchown(path, int(host), int(host))
	}))
	// The way to it has to be open to others.
	for dir := b.bundle; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(b.t, os.Chmod(dir, 0o755))
	}
}

// TestIDMappedMounts: what is seen of a file's owner, and who owns what is made.
func TestIDMappedMounts(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.2 on")
	}
	owner := func(path string) string {
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	for _, userns := range []bool{false, true} {
		b := newBox(t, sh("/bin/busybox stat -c %n=%u:%g /m*/f /m4/below/f")...)
		source := filepath.Join(b.bundle, "source")
		must(t, os.Mkdir(source, 0o777))
		must(t, os.Chmod(source, 0o777))
		must(t, os.WriteFile(filepath.Join(source, "f"), nil, 0o644))
		must(t, os.Chown(filepath.Join(source, "f"), 100, 211))
		// A tree below, on another mount, for what is recursive.
		below := filepath.Join(source, "below")
		must(t, os.Mkdir(below, 0o755))
		other := filepath.Join(b.bundle, "other")
		must(t, os.Mkdir(other, 0o755))
		must(t, os.WriteFile(filepath.Join(other, "f"), nil, 0o644))
		must(t, os.Chown(filepath.Join(other, "f"), 100, 211))
		must(t, unix.Mount(other, below, "", unix.MS_BIND, ""))
		defer unix.Unmount(below, unix.MNT_DETACH)
		if userns {
			b.userNS(100000)
		}
		uids, gids := ids(100, 100000, 100), ids(200, 102000, 100)
		bind := func(n int, options ...string) specs.Mount {
			return specs.Mount{Source: "source", Destination: fmt.Sprint("/m", n), Options: append([]string{"rbind"}, options...)}
		}
		m1, m4 := bind(1), bind(4, "ridmap")
		m1.UIDMappings, m1.GIDMappings, m4.UIDMappings, m4.GIDMappings = uids, gids, uids, gids
		b.spec.Mounts = append(b.spec.Mounts, m1, bind(2, "idmap=uids=100-100005-1;gids=200-100000-50"), bind(3), m4)
		b.save()
		want := "/m1/f=100000:102011\n/m2/f=100005:100011\n/m3/f=100:211\n/m4/f=100000:102011\n/m4/below/f=100000:102011\n"
		if userns {
			want = "/m1/f=0:2011\n/m2/f=5:11\n/m3/f=65534:65534\n/m4/f=0:2011\n/m4/below/f=0:2011\n"
		}
		if got := b.must("run", "-b", b.bundle, b.id); got != want {
			t.Errorf("with user namespace %v:\n%swant\n%s", userns, got, want)
		}
		// What is mounted in the container already, at another place.
		mounts := b.spec.Mounts
		b.spec.Mounts = append(mounts[:len(mounts):len(mounts)], specs.Mount{Source: filepath.Join(b.bundle, "rootfs/m3"), Destination: "/m6", Options: []string{"rbind", "ridmap"}, UIDMappings: uids, GIDMappings: gids})
		b.spec.Process.Args = sh("/bin/busybox stat -c %n=%u:%g /m6/f /m6/below/f")
		b.save()
		want = "/m6/f=100000:102011\n/m6/below/f=100000:102011\n"
		if userns {
			want = "/m6/f=0:2011\n/m6/below/f=0:2011\n"
		}
		if got := b.must("run", "-b", b.bundle, b.id); got != want {
			t.Errorf("inside, with user namespace %v:\n%swant\n%s", userns, got, want)
		}
		b.spec.Mounts = mounts
		// Not recursive: the mount below keeps its ids.
		b.spec.Process.Args = sh("/bin/busybox stat -c %n=%u:%g /m1/below/f")
		b.save()
		if got := b.must("run", "-b", b.bundle, b.id); !strings.HasSuffix(got, "=100:211\n") && !strings.HasSuffix(got, "=65534:65534\n") {
			t.Errorf("idmap without recursion: %q", got)
		}
		if !userns {
			b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/new", Type: "tmpfs", Options: []string{"idmap=uids=0-7-1;gids=0-8-1", "mode=755"}})
			b.spec.Process.Args = sh("/bin/busybox stat -c %u:%g /new")
			b.save()
			r := b.cmd("run", "-b", b.bundle, b.id)
			switch {
			case os.Getenv("VIV_TEST_VM") != "" && strings.Contains(r.err, "which its file system has to allow"):
				t.Log("a tmpfs takes no mapped ids before Linux 6.3")
			case r.code != 0 || r.out != "7:8\n":
				t.Errorf("the root of an id-mapped tmpfs belongs to %q; exit code %d, %s", r.out, r.code, r.err)
			}
			continue
		}
		// Without maps: those of the container. What it writes is on disk as the
		// ids of the file system.
		m5 := bind(5, "idmap")
		b.spec.Mounts = append(b.spec.Mounts, m5)
		b.spec.Process.Args = sh("touch /m5/new && /bin/busybox stat -c %u:%g /m5/f /m5/new")
		b.save()
		if got := b.must("run", "-b", b.bundle, b.id); got != "100:211\n0:0\n" || owner(filepath.Join(source, "new")) != "0:0" {
			t.Errorf("with the container's maps %q, on disk %s", got, owner(filepath.Join(source, "new")))
		}
	}
}

func TestIDMappedMountsRefused(t *testing.T) {
	if reference != "" {
		t.Skip("the words are ours")
	}
	b := newBox(t, "true")
	add := func(m specs.Mount) {
		b.spec.Mounts = append(b.spec.Mounts[:len(b.spec.Mounts):len(b.spec.Mounts)], m)
		b.save()
		b.spec.Mounts = b.spec.Mounts[:len(b.spec.Mounts)-1]
	}
	add(specs.Mount{Source: "/tmp", Destination: "/m", Options: []string{"bind", "idmap"}})
	b.fails(1, "mount on /m: an id-mapped mount needs uidMappings and gidMappings, or a user namespace", "run", "-b", b.bundle, b.id)
	add(specs.Mount{Source: "/proc", Destination: "/m", Options: []string{"bind"}, UIDMappings: ids(0, 1, 1), GIDMappings: ids(0, 1, 1)})
	b.fails(1, "map the ids of /proc, which its file system has to allow: invalid argument", "run", "-b", b.bundle, b.id)
	add(specs.Mount{Source: "/tmp", Destination: "/m", Options: []string{"bind"}, UIDMappings: ids(0, 1, 0), GIDMappings: ids(0, 1, 1)})
	b.fails(1, "make a user namespace for its id maps, which mounts take: invalid argument", "run", "-b", b.bundle, b.id)
	b.nothingLeft()
}

// TestTmpfsMode: a tmpfs has the mode of the directory that it hides.
func TestTmpfsMode(t *testing.T) {
	b := newBox(t, sh("/bin/busybox stat -c %a /tmp /none /given")...)
	must(t, os.Chmod(filepath.Join(b.bundle, "rootfs/tmp"), 0o3711|os.ModeSticky))
	must(t, unix.Chmod(filepath.Join(b.bundle, "rootfs/tmp"), 0o1711))
	for dir, options := range map[string][]string{"/tmp": nil, "/none": nil, "/given": {"mode=701"}} {
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: dir, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	b.save()
	if got := b.must("run", "-b", b.bundle, b.id); got != "1711\n1777\n701\n" {
		t.Errorf("modes %q", got)
	}
}

// TestCopyUp: a tmpfs with what was in the directory before, as it was.
func TestCopyUp(t *testing.T) {
	if reference != "" {
		t.Skip("runc cannot copy a FIFO")
	}
	const look = `cd /data; /bin/busybox find . -exec /bin/busybox stat -c '%n %A %u:%g %Y' {} + | /bin/busybox sort | grep -v '^[.] '
		cat dir/file; /bin/busybox readlink link; /bin/busybox readlink out; grep ' /data ' /proc/mounts | /bin/busybox cut -d ' ' -f 3`
	b := newBox(t, sh(look)...)
	caps := b.spec.Process.Capabilities
	for _, set := range []*[]string{&caps.Bounding, &caps.Permitted, &caps.Effective} {
		*set = append(*set, "CAP_DAC_OVERRIDE") // for files of others
	}
	b.save()
	data := filepath.Join(b.bundle, "rootfs/data")
	must(t, os.MkdirAll(filepath.Join(data, "dir/deep"), 0o755))
	file := filepath.Join(data, "dir/file")
	must(t, os.WriteFile(file, []byte("content\n"), 0o600))
	must(t, os.Chown(file, 5, 6))
	must(t, unix.Chmod(file, 0o4750))
	must(t, os.Symlink("dir/file", filepath.Join(data, "link")))
	must(t, os.Symlink("/etc/passwd", filepath.Join(data, "out")))
	must(t, os.Lchown(filepath.Join(data, "link"), 7, 8))
	must(t, unix.Mkfifo(filepath.Join(data, "fifo"), 0o640))
	must(t, unix.Chmod(filepath.Join(data, "fifo"), 0o622))
	must(t, unix.Mknod(filepath.Join(data, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Setxattr(file, "trusted.test", []byte("x"), 0))
	ts := []unix.Timespec{{Sec: 1000}, {Sec: 1000}}
	for _, f := range []string{"dir/deep", "dir/file", "link", "out", "fifo", "null", "dir"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(data, f), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	for _, userns := range []bool{false, true} {
		if userns {
			b.spec.Mounts = b.spec.Mounts[:len(b.spec.Mounts)-1]
			must(t, os.Remove(filepath.Join(data, "null"))) // no nodes in a tmpfs of a user namespace
			b.userNS(100000)
			must(t, os.Chown(file, 100005, 100006))
			must(t, unix.Chmod(file, 0o4750))
			must(t, os.Chown(filepath.Join(data, "dir"), 100005, 100006))
			must(t, os.Chmod(filepath.Join(data, "dir"), 0o700))
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(data, "dir"), ts, 0))
		}
		b.save()
		want := b.must("run", "-b", b.bundle, b.id)
		b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "nosuid"}})
		b.save()
		got := b.must("run", "-b", b.bundle, b.id)
		if got != want+"tmpfs\n" {
			t.Errorf("copied:\n%swas:\n%s", got, want)
		}
		if !strings.Contains(got, "./dir/file -rwsr-x--- 5:6 ") || !strings.Contains(got, "content\ndir/file\n/etc/passwd\n") {
			t.Errorf("the file is not as expected:\n%s", got)
		}
	}
	// What is written there stays there.
	b.spec.Process.Args = sh("echo x >/data/new; mkdir /data/d2 2>/dev/null; /bin/busybox rm -r /data/dir")
	b.save()
	b.must("run", "-b", b.bundle, b.id)
	if _, err := os.Stat(filepath.Join(data, "new")); err == nil {
		t.Error("what was written to the tmpfs is in the rootfs")
	}
	must(t, os.Chmod(filepath.Join(data, "dir/deep"), 0o755))
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// TestCopyUpStaysInside: a mount point that leads out by a symlink leads nowhere.
func TestCopyUpStaysInside(t *testing.T) {
	b := newBox(t, sh("ls /etc/real")...)
	secret := filepath.Join(b.bundle, "secret")
	must(t, os.Mkdir(secret, 0o755))
	must(t, os.WriteFile(filepath.Join(secret, "s"), nil, 0o644))
	must(t, os.Symlink("../../../../../../../../.."+secret, filepath.Join(b.bundle, "rootfs/etc/out")))
	must(t, os.MkdirAll(filepath.Join(b.bundle, "rootfs", secret), 0o755))
	must(t, os.Symlink(secret, filepath.Join(b.bundle, "rootfs/etc/real")))
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/etc/out", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	b.save()
	if got := b.must("run", "-b", b.bundle, b.id); got != "" {
		t.Errorf("a file of the host was copied into the container: %q", got)
	}
}
