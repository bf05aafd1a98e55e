package netdevice

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCheck(t *testing.T) {
	type devices = map[string]specs.LinuxNetDevice
	for _, good := range []devices{nil, {"eth0": {}}, {"eth0": {Name: "c%d"}, "eth1": {Name: "c%d"}}, {"a": {Name: "fifteen-bytes-1"}}, {"ä-ö": {}}} {
		if err := Check(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range []devices{{"": {}}, {".": {}}, {"..": {}}, {"a b": {}}, {"a/b": {}}, {"a:b": {}}, {"a%d": {}}, {"a": {Name: "%s"}}, {"a": {Name: "%d%d"}},
		{"a": {Name: "sixteen-bytes-16"}}, {"a": {Name: "b"}, "b": {}}} {
		if err := Check(bad); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

func TestReadAddress(t *testing.T) {
	body := []byte{unix.AF_INET, 24, unix.IFA_F_PERMANENT, unix.RT_SCOPE_UNIVERSE, 7, 0, 0, 0,
		8, 0, unix.IFA_LOCAL, 0, 10, 0, 0, 1,
		8, 0, unix.IFA_FLAGS, 0, unix.IFA_F_PERMANENT | unix.IFA_F_NODAD, 0, 0, 0,
		6, 0, unix.IFA_LABEL, 0, 'x', 0, 0, 0}
	a, ok := readAddress(body, 7)
	if !ok || len(a.attrs) != 2 || a.attrs[1].data[0] != unix.IFA_F_NODAD {
		t.Errorf("%v, %v", a, ok)
	}
	if _, ok := readAddress(body, 8); ok {
		t.Error("the address of another device")
	}
	body[3] = unix.RT_SCOPE_LINK
	if _, ok := readAddress(body, 7); ok {
		t.Error("an address of the link's scope")
	}
	for i := range body {
		readAddress(body[:i], 7) // what is cut off must not be read beyond
	}
}
