package capability

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestNumbersAreTheKernels(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "net_admin": unix.CAP_NET_ADMIN, "Cap_Sys_Admin": unix.CAP_SYS_ADMIN,
		"SETFCAP": unix.CAP_SETFCAP, "CAP_AUDIT_READ": unix.CAP_AUDIT_READ, "BPF": unix.CAP_BPF,
		"CAP_CHECKPOINT_RESTORE": unix.CAP_LAST_CAP, "MKNOD": unix.CAP_MKNOD, "SYSLOG": unix.CAP_SYSLOG,
	} {
		got, err := Bit(name)
		if err != nil || got != want {
			t.Errorf("Bit(%q) = %d, %v; want %d", name, got, err, want)
		}
	}
	if Known != 41 {
		t.Errorf("%d names, the kernel has 41", Known)
	}
}

func TestDockerSet(t *testing.T) {
	want := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
	}
	if got := Docker.Names(); !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if back, err := Parse(want, 40); err != nil || back != Docker {
		t.Errorf("Parse gives %#x, %v; want %#x", back, err, Docker)
	}
}

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		in   []string
		last int
		want Set
		ok   bool
	}{
		{nil, 40, 0, true},
		{[]string{"ALL"}, 40, 1<<41 - 1, true},
		{[]string{"all"}, 37, 1<<38 - 1, true},
		{[]string{"ALL"}, 63, 1<<41 - 1, true},
		{[]string{"CAP_CHOWN", "kill"}, 40, 1 | 1<<5, true},
		{[]string{"CAP_FLY"}, 40, 0, false},
		{[]string{""}, 40, 0, false},
		{[]string{"CAP_CAP_CHOWN"}, 40, 0, false},
	} {
		got, err := Parse(tc.in, tc.last)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("Parse(%q, %d) = %#x, %v; want %#x", tc.in, tc.last, got, err, tc.want)
		}
		if err != nil && !errors.Is(err, ErrUnknown) {
			t.Errorf("Parse(%q): %v is not ErrUnknown", tc.in, err)
		}
	}
}

func TestAdjust(t *testing.T) {
	for _, tc := range []struct {
		add, drop []string
		want      Set
	}{
		{nil, nil, Docker},
		{[]string{"NET_ADMIN"}, []string{"MKNOD"}, (Docker | 1<<12) &^ (1 << 27)},
		{[]string{"ALL"}, []string{"MKNOD"}, All(40) &^ (1 << 27)},
		{[]string{"CHOWN"}, []string{"ALL"}, 1},
		{[]string{"ALL"}, []string{"ALL"}, 0},
	} {
		got, err := Adjust(Docker, tc.add, tc.drop, 40)
		if err != nil || got != tc.want {
			t.Errorf("add %v drop %v: %v, %v; want %v", tc.add, tc.drop, got.Names(), err, tc.want.Names())
		}
	}
}

func TestFromSpec(t *testing.T) {
	c := &specs.LinuxCapabilities{
		Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN", "CAP_KILL"},
		Bounding: []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE", "nonsense", "nonsense"}, Inheritable: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL", "CAP_CHOWN"},
	}
	sets, ignored, unraised, err := FromSpec(c, 39)
	if err != nil {
		t.Fatal(err)
	}
	want := Sets{Effective: 1, Permitted: 1 | 1<<5, Inheritable: 1 << 5, Bounding: 1, Ambient: 1 << 5}
	if sets != want || !slices.Equal(ignored, []string{"CAP_CHECKPOINT_RESTORE", "nonsense"}) {
		t.Errorf("got %+v, ignored %v", sets, ignored)
	}
	if !slices.Equal(unraised, []string{"CAP_CHOWN"}) {
		t.Errorf("unraised %v", unraised)
	}
	if w := (Set(1)<<40 | 1<<31 | 1).Words(); w != [2]uint32{1<<31 | 1, 1 << 8} {
		t.Errorf("words %#x", w)
	}
	if _, _, _, err := FromSpec(&specs.LinuxCapabilities{Effective: []string{"CAP_CHOWN"}}, 40); err == nil {
		t.Error("an effective capability that is not permitted is accepted")
	}
	if s, _, _, err := FromSpec(nil, 40); err != nil || s != (Sets{}) {
		t.Errorf("nil spec: %v %v", s, err)
	}
}

func TestLastCap(t *testing.T) {
	n, err := LastCap()
	if err != nil || n < 37 {
		t.Errorf("LastCap = %d, %v", n, err)
	}
	for _, bad := range []string{"", "x", "-1", "64"} {
		p := filepath.Join(t.TempDir(), "last")
		if err := os.WriteFile(p, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := lastCap(p); err == nil {
			t.Errorf("%q gives %d", bad, n)
		}
	}
}
