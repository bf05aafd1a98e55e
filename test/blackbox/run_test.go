package blackbox

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vivarium/internal/testenv"
)

// runCase is one `run --rm` with what must come of it.
type runCase struct {
	name  string
	flags []string
	// command is what runs, by sh -c; args, if set, is used as it is instead.
	command string
	args    []string
	stdin   string
	env     []string
	code    int
	stdout  string
	// match is a regular expression for all of stdout, used where stdout is not.
	match string
}

// check runs the cases on one engine.
func check(t *testing.T, e *testenv.Instance, cases []runCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"run", "--rm"}, c.flags...)
			args = append(args, box)
			if c.args != nil {
				args = append(args, c.args...)
			} else {
				args = append(args, "sh", "-c", c.command)
			}
			cmd := e.Command(args...)
			cmd.Env = c.env
			if c.stdin != "" {
				cmd.Stdin = strings.NewReader(c.stdin)
			}
			res := cmd.Run()
			if c.match == "" {
				want(t, res, c.code, c.stdout)
				return
			}
			if res.Code != c.code || !regexp.MustCompile("^(?s:"+c.match+")$").MatchString(res.Stdout) {
				t.Errorf("want exit status %d and stdout like %q, got %v", c.code, c.match, res)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	e := newBox(t)
	check(t, e, []runCase{
		{name: "0", command: "true"},
		{name: "1", command: "false", code: 1},
		{name: "42", command: "echo before; exit 42", code: 42, stdout: "before\n"},
		{name: "255", command: "exit 255", code: 255},
		{name: "a child's signal", command: "sh -c 'kill -KILL $$'; exit $?", code: 137},
	})
	for _, c := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"command not found", []string{box, "no-such-command"}, 127, []string{"no-such-command"}},
		{"path not found", []string{box, "/no/such/file"}, 127, []string{"/no/such/file"}},
		{"not executable", []string{box, "/etc/not-executable"}, 126, []string{"/etc/not-executable", "permission denied"}},
		{"a directory", []string{box, "/etc"}, 126, []string{"/etc"}},
		{"unknown image", []string{"--pull=never", "no-such-image", "true"}, 125, []string{"no-such-image"}},
		{"bad reference", []string{"UPPER/case", "true"}, 125, []string{"repository name"}},
		{"unknown flag", []string{"--no-such-flag", box, "true"}, 125, []string{"no-such-flag"}},
		{"unknown user", []string{"-u", "nobody-we-know", box, "true"}, 125, []string{"nobody-we-know"}},
		{"nonsense memory", []string{"-m", "lots", box, "true"}, 125, []string{"lots"}},
		{"too little memory", []string{"-m", "1k", box, "true"}, 125, []string{"memory"}},
		{"nonsense cpus", []string{"--cpus", "-1", box, "true"}, 125, []string{"cpu"}},
		{"unknown capability", []string{"--cap-add", "CAP_FLY", box, "true"}, 125, []string{"CAP_FLY"}},
		{"relative workdir", []string{"-w", "relative", box, "true"}, 125, []string{"relative"}},
		{"missing env file", []string{"--env-file", "/no/such/env", box, "true"}, 125, []string{"/no/such/env"}},
		{"missing device", []string{"--device", "/dev/no-such-device", box, "true"}, 125, []string{"/dev/no-such-device"}},
		{"bind of nothing", []string{"--mount", "type=bind,src=/no/such/dir,dst=/x", box, "true"}, 125, []string{"/no/such/dir"}},
		{"bad name", []string{"--name", "a/b", box, "true"}, 125, []string{"a/b"}},
		{"unknown network", []string{"--network", "no-such-network", box, "true"}, 125, []string{"no-such-network"}},
		{"tty with rm of nobody", []string{"--network", "container:no-such-container", box, "true"}, 125, []string{"no-such-container"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "missing device" {
				vivOnly(t, "20.10 takes the missing device for a missing command")
			}
			before := e.MustViv("ps", "-aq")
			fails(t, e.Viv(append([]string{"run", "--rm"}, c.args...)...), c.code, c.want...)
			if after := e.MustViv("ps", "-aq"); after != before {
				t.Errorf("a failed run left a container: %q", after)
			}
		})
	}
}

func TestProcessSettings(t *testing.T) {
	e := newBox(t)
	envFile := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(envFile, []byte("# comment\nFROM_FILE=a b\nINHERITED\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(t, e, []runCase{
		{name: "first process", command: "echo $$", stdout: "1\n"},
		{name: "env", flags: []string{"-e", "A=b c", "-e", "EMPTY="}, command: `echo "$A|${EMPTY-unset}"`, stdout: "b c|\n"},
		{name: "env from outside", flags: []string{"-e", "OUTER", "-e", "VIV_NOT_SET"}, env: []string{"OUTER=in"}, command: `echo "$OUTER|${VIV_NOT_SET-unset}"`, stdout: "in|unset\n"},
		{name: "env file", flags: []string{"--env-file", envFile}, env: []string{"INHERITED=yes"}, command: `echo "$FROM_FILE|$INHERITED"`, stdout: "a b|yes\n"},
		{name: "no env of the caller", env: []string{"SECRET=x"}, command: `echo "${SECRET-unset}"`, stdout: "unset\n"},
		{name: "default env", command: `env | cut -d= -f1 | sort | tr '\n' ' '`, stdout: "HOME HOSTNAME PATH PWD SHLVL "},
		{name: "default path", command: `echo $PATH`, stdout: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"},
		{name: "workdir", flags: []string{"-w", "/usr"}, args: []string{"pwd"}, stdout: "/usr\n"},
		{name: "workdir that is made", flags: []string{"-w", "/made/here"}, args: []string{"pwd"}, stdout: "/made/here\n"},
		{name: "user number", flags: []string{"-u", "1234"}, command: "id -u; id -g", stdout: "1234\n0\n"},
		{name: "user name", flags: []string{"-u", "app"}, command: "id -u; id -g; id -G; echo $HOME", stdout: "1000\n1000\n1000 50\n/home/app\n"},
		{name: "user and group", flags: []string{"-u", "app:staff"}, command: "id -u; id -g; id -G", stdout: "1000\n50\n50\n"},
		{name: "user and group numbers", flags: []string{"-u", "7:8"}, command: "id -u; id -g; id -G", stdout: "7\n8\n8\n"},
		{name: "more groups", flags: []string{"-u", "7", "--group-add", "staff", "--group-add", "99"}, command: "id -G", stdout: "0 50 99\n"},
		{name: "hostname", flags: []string{"-h", "myhost"}, command: "hostname; cat /etc/hostname; grep -c myhost /etc/hosts; true", match: "myhost\nmyhost\n[01]\n"},
		{name: "default hostname", args: []string{"hostname"}, match: "[0-9a-f]{12}\n"},
		{name: "entrypoint", flags: []string{"--entrypoint", "/bin/echo"}, args: []string{"a", "b"}, stdout: "a b\n"},
		{name: "stdin", flags: []string{"-i"}, args: []string{"cat"}, stdin: "over there\n", stdout: "over there\n"},
		{name: "no stdin without -i", args: []string{"cat"}, stdin: "not for you\n", stdout: ""},
		{name: "descriptors", command: "ls /proc/self/fd", stdout: "0\n1\n2\n3\n"},
		{name: "umask", command: "umask", stdout: "0022\n"},
		{name: "ulimit", flags: []string{"--ulimit", "nofile=100:200"}, command: "ulimit -Sn; ulimit -Hn", stdout: "100\n200\n"},
		{name: "oom score", flags: []string{"--oom-score-adj", "500"}, command: "cat /proc/self/oom_score_adj", stdout: "500\n"},
		{name: "sysctl", flags: []string{"--sysctl", "kernel.msgmax=12345"}, command: "cat /proc/sys/kernel/msgmax", stdout: "12345\n"},
		{name: "signals unblocked", command: "grep -E 'Sig(Blk|Ign)' /proc/self/status | cut -f2", stdout: "0000000000000000\n0000000000000000\n"},
		{name: "no new privileges", flags: []string{"--security-opt", "no-new-privileges"}, command: "grep NoNewPrivs /proc/self/status | cut -f2", stdout: "1\n"},
		{name: "process group", command: "cut -d' ' -f1,5,6 /proc/1/stat", stdout: "1 1 1\n"},
	})
}

func TestStreams(t *testing.T) {
	e := newBox(t)
	res := e.Viv("run", "--rm", box, "sh", "-c", "echo out; echo err >&2")
	if res.Stdout != "out\n" || res.Stderr != "err\n" {
		t.Errorf("streams are mixed: %v", res)
	}
	big := e.Command("run", "--rm", "-i", box, "sh", "-c", "cat; echo end")
	text := strings.Repeat("0123456789abcde\n", 1<<16)
	big.Stdin = strings.NewReader(text)
	if res := big.Run(); res.Stdout != text+"end\n" {
		t.Errorf("a megabyte through stdin and stdout: %d bytes came back, exit status %d", len(res.Stdout), res.Code)
	}
}

func TestTerminal(t *testing.T) {
	e := newBox(t)
	cmd := e.Command("run", "--rm", "-it", box, "sh", "-c", "tty; read x; until stty size | grep -q '44 88'; do sleep 0.1; done; echo got $x; exit 3")
	cmd.Terminal = true
	p := cmd.Start()
	p.Resize(33, 77)
	p.Expect("/dev/pts/0")
	p.Resize(44, 88)
	p.Type("typed\n")
	p.Expect("got typed")
	if res := p.Wait(); res.Code != 3 {
		t.Errorf("got %v", res)
	}
	check(t, e, []runCase{
		{name: "-t without a terminal outside", flags: []string{"-t"}, command: "test -t 0 && test -t 1 && echo yes", stdout: "yes\r\n"},
		{name: "none", command: "test -t 0 || test -t 1 || echo no", stdout: "no\n"},
	})
	fails(t, e.Viv("run", "--rm", "-it", box, "true"), 1, "not a TTY")
}

func TestFileSystem(t *testing.T) {
	e := newBox(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(t, e, []runCase{
		{name: "writable", command: "echo x >/file && cat /file", stdout: "x\n"},
		{name: "read only", flags: []string{"--read-only"}, command: "touch /file", code: 1},
		{name: "read only with tmpfs", flags: []string{"--read-only", "--tmpfs", "/tmp"}, command: "touch /tmp/file && echo ok", stdout: "ok\n"},
		{name: "tmpfs options", flags: []string{"--tmpfs", "/t:size=64k,mode=700"}, command: "stat -c %a /t; grep ' /t ' /proc/mounts | grep -o -E 'noexec|nosuid|nodev|size=64k' | sort", stdout: "700\nnodev\nnoexec\nnosuid\nsize=64k\n"},
		{name: "bind", flags: []string{"-v", host + ":/h"}, command: "cat /h/file && echo new >/h/new", stdout: "from the host\n"},
		{name: "bind read only", flags: []string{"-v", host + ":/h:ro"}, command: "cat /h/new; touch /h/x", code: 1, stdout: "new\n"},
		{name: "bind of a file", flags: []string{"-v", host + "/file:/etc/one:ro"}, command: "cat /etc/one", stdout: "from the host\n"},
		{name: "mount flag", flags: []string{"--mount", "type=bind,source=" + host + ",target=/h,readonly"}, command: "cat /h/file; touch /h/x", code: 1, stdout: "from the host\n"},
		{name: "bind through a link in the image", flags: []string{"-v", host + ":/bin/../h2"}, command: "cat /h2/file", stdout: "from the host\n"},
		{name: "shm size", flags: []string{"--shm-size", "1m"}, command: "df -k /dev/shm | tail -1 | awk '{print $2}'", stdout: "1024\n"},
		{name: "default shm size", command: "df -k /dev/shm | tail -1 | awk '{print $2}'", stdout: "65536\n"},
		{name: "hosts", flags: []string{"--add-host", "other:10.1.2.3"}, command: "grep other /etc/hosts", match: "10.1.2.3\\s+other\n"},
		{name: "devices", command: "ls /dev | grep -v core", stdout: "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n"},
		{name: "device", flags: []string{"--device", "/dev/full:/dev/xfull"}, command: "echo x 2>/dev/null >/dev/xfull || echo full", stdout: "full\n"},
		{name: "no other device", command: "mknod /d b 254 0 2>/dev/null && cat /d", code: 1},
		{name: "host mounts are not seen", command: "grep -c " + host + " /proc/mounts", code: 1, stdout: "0\n"},
	})
	if data, err := os.ReadFile(filepath.Join(host, "new")); err != nil || string(data) != "new\n" {
		t.Errorf("the container's write through the bind: %q, %v", data, err)
	}
}

func TestVolumes(t *testing.T) {
	e := newBox(t)
	volume := "viv-test-volume"
	t.Cleanup(func() { e.Viv("volume", "rm", volume) })
	e.MustViv("run", "--rm", "-v", volume+":/v", box, "sh", "-c", "echo kept >/v/file")
	want(t, e.Viv("run", "--rm", "-v", volume+":/v:ro", box, "cat", "/v/file"), 0, "kept\n")
	// A new volume takes what the image has at its place.
	want(t, e.Viv("run", "--rm", "-v", "/etc", box, "grep", "-c", "app", "/etc/passwd"), 0, "1\n")
	if names := e.MustViv("volume", "ls", "-q"); names != volume {
		t.Errorf("volumes are %q, want %q alone: --rm removes those without a name", names, volume)
	}
}

func TestIsolation(t *testing.T) {
	e := newBox(t)
	check(t, e, []runCase{
		{name: "capabilities", command: "grep ^Cap /proc/self/status | cut -f2", stdout: "0000000000000000\n00000000a80425fb\n00000000a80425fb\n00000000a80425fb\n0000000000000000\n"},
		{name: "no capabilities", flags: []string{"--cap-drop", "ALL"}, command: "grep -E '^Cap(Eff|Bnd)' /proc/self/status | cut -f2", stdout: "0000000000000000\n0000000000000000\n"},
		{name: "one capability", flags: []string{"--cap-drop", "ALL", "--cap-add", "net_admin"}, command: "grep ^CapEff /proc/self/status | cut -f2", stdout: "0000000000001000\n"},
		{name: "a user has none", flags: []string{"-u", "app"}, command: "grep -E '^Cap(Inh|Prm|Eff)' /proc/self/status | cut -f2", stdout: "0000000000000000\n0000000000000000\n0000000000000000\n"},
		{name: "seccomp", command: "grep ^Seccomp: /proc/self/status | cut -f2", stdout: "2\n"},
		{name: "seccomp off", flags: []string{"--security-opt", "seccomp=unconfined"}, command: "grep ^Seccomp: /proc/self/status | cut -f2", stdout: "0\n"},
		{name: "unshare is filtered", command: "unshare -U true 2>/dev/null", code: 1},
		{name: "mount is not allowed", command: "mount -t tmpfs x /tmp 2>/dev/null", code: 1},
		{name: "masked files", command: "cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c", stdout: "0\n"},
		{name: "masked directories", command: "ls /sys/firmware /proc/scsi 2>/dev/null | grep -v : | grep -c .", code: 1, stdout: "0\n"},
		{name: "read-only proc", command: "for f in sys/kernel/domainname sysrq-trigger irq/default_smp_affinity; do ( echo x >/proc/$f ) 2>/dev/null && echo $f; done; true", stdout: ""},
		{name: "read-only sys", command: "mkdir /sys/fs/cgroup/x /sys/kernel/x 2>/dev/null; touch /sys/x 2>/dev/null", code: 1},
		{name: "processes", command: "ls /proc | grep -c '^[0-9]'", match: "[1-4]\n"},
		{name: "host processes", flags: []string{"--pid", "host"}, command: "test $$ != 1 && echo other", stdout: "other\n"},
		{name: "host name of the host", flags: []string{"--uts", "host"}, args: []string{"hostname"}, stdout: hostname(t) + "\n"},
	})
	testNamespaces(t, e)
	testPrivileged(t, e)
}

// testPrivileged wants all that the caller has, which may be less than what the
// kernel knows.
func testPrivileged(t *testing.T, e *testenv.Instance) {
	t.Helper()
	ours := bounding(t)
	if testenv.Reference() && ours != "000001ffffffffff" {
		t.Log("privileged containers left out: runc insists on capabilities that this machine does not have")
		return
	}
	check(t, e, []runCase{
		{name: "privileged capabilities", flags: []string{"--privileged"}, command: "grep ^CapEff /proc/self/status | cut -f2", stdout: ours + "\n"},
		{name: "privileged has no filter", flags: []string{"--privileged"}, command: "grep ^Seccomp: /proc/self/status | cut -f2", stdout: "0\n"},
		{name: "privileged may mount", flags: []string{"--privileged"}, command: "mkdir /m && mount -t tmpfs x /m && echo mounted", stdout: "mounted\n"},
		{name: "privileged sees devices", flags: []string{"--privileged"}, command: "test -e /dev/ptmx && test -e /dev/console -o -e /dev/mem -o -e /dev/kmsg && echo yes", stdout: "yes\n"},
	})
	id := detached(t, e, box, "sleep", "1000")
	want(t, e.Viv("exec", "--privileged", id, "sh", "-c", "grep ^CapEff /proc/self/status | cut -f2"), 0, ours+"\n")
}

// bounding is the bounding set of this process.
func bounding(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "CapBnd:\t")
	set, _, _ := strings.Cut(rest, "\n")
	return set
}

func hostname(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// testNamespaces compares the namespaces inside with those of this process.
func testNamespaces(t *testing.T, e *testenv.Instance) {
	out := e.MustViv("run", "--rm", box, "sh", "-c", "for n in mnt uts ipc pid net; do readlink /proc/self/ns/$n; done")
	lines := strings.Fields(out)
	if len(lines) != 5 {
		t.Fatalf("namespaces: %q", out)
	}
	for i, name := range []string{"mnt", "uts", "ipc", "pid", "net"} {
		ours, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if lines[i] == ours {
			t.Errorf("the container shares the %s namespace with the host", name)
		}
	}
}

// TestLimits looks for each limit where the container sees it.
func TestLimits(t *testing.T) {
	e := newBox(t)
	type limit struct {
		name   string
		flags  []string
		v1, v2 string // file below /sys/fs/cgroup
		w1, w2 string // what it holds; weights on the scale of runc 1.3 and newer
	}
	for _, l := range []limit{
		{"memory", []string{"-m", "64m"}, "memory/memory.limit_in_bytes", "memory.max", "67108864\n", "67108864\n"},
		{"memory reservation", []string{"--memory-reservation", "32m"}, "memory/memory.soft_limit_in_bytes", "memory.low", "33554432\n", "33554432\n"},
		{"cpus", []string{"--cpus", "0.5"}, "cpu/cpu.cfs_quota_us", "cpu.max", "50000\n", "50000 100000\n"},
		{"cpu shares", []string{"--cpu-shares", "512"}, "cpu/cpu.shares", "cpu.weight", "512\n", "59\n"},
		{"cpu set", []string{"--cpuset-cpus", "0"}, "cpuset/cpuset.cpus", "cpuset.cpus", "0\n", "0\n"},
		{"processes", []string{"--pids-limit", "20"}, "pids/pids.max", "pids.max", "20\n", "20\n"},
	} {
		t.Run(l.name, func(t *testing.T) {
			file, content := l.v1, l.w1
			if oneV2() {
				file, content = l.v2, l.w2
			}
			args := append(append([]string{"run", "--rm"}, l.flags...), box, "cat", "/sys/fs/cgroup/"+file)
			want(t, e.Viv(args...), 0, content)
		})
	}
	t.Run("out of memory", func(t *testing.T) {
		res := e.Viv("run", "--rm", "-m", "16m", "--memory-swap", "16m", box, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1")
		if res.Code != 137 {
			t.Errorf("want exit status 137, got %v", res)
		}
	})
	t.Run("too many processes", func(t *testing.T) {
		res := e.Viv("run", "--rm", "--pids-limit", "5", box, "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait")
		if res.Code == 0 || !strings.Contains(res.Stderr, "fork") {
			t.Errorf("want a failed fork, got %v", res)
		}
	})
}

func TestImageConfig(t *testing.T) {
	testenv.Root(t)
	e := testenv.Engine(t)
	ref := e.Load("layered")
	want(t, e.Viv("run", "--rm", ref, "sh", "-c", "echo $IMAGE; cat /data/a /etc/motd; ls /data /full; stat -c %a /full /data/a"), 0,
		"layered\na2\nsecond layer\n/data:\na\n\n/full:\nnew\n750\n600\n")
	if !testenv.Reference() {
		// Docker 20.10 unpacks a layer without those below it, and fails.
		linked := e.Load("linked")
		want(t, e.Viv("run", "--rm", linked, "sh", "-c", "cat /data/motd; stat -c %a /full"), 0, "second layer\n750\n")
	}
	cmd := e.Command("run", "--rm", "-i", ref)
	cmd.Stdin = strings.NewReader("echo the default command\n")
	want(t, cmd.Run(), 0, "the default command\n")
	out := e.MustViv("images", "--format", "{{.Repository}}:{{.Tag}}")
	if !strings.Contains(out, ref) {
		t.Errorf("images lists %q, want %q in it", out, ref)
	}
	e.MustViv("tag", ref, "again:v1")
	e.MustViv("rmi", ref)
	want(t, e.Viv("run", "--rm", "again:v1", "cat", "/full/new"), 0, "new\n")
	e.MustViv("rmi", "again:v1")
	fails(t, e.Viv("rmi", "again:v1"), 1, "again:v1")
}
