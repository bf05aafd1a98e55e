package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newNetwork puts the test, and what it starts, into a network namespace of its
// own. The devices that are moved are vxlan: this kernel has no dummy, and a veth
// has another end.
func newNetwork(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network devices")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	ip(t, "link", "set", "lo", "up")
}

func ip(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %v: %v, %s", args, err, out)
	}
	return string(out)
}

func newDevice(t *testing.T, name string, id int) {
	t.Helper()
	ip(t, "link", "add", name, "type", "vxlan", "id", fmt.Sprint(id), "dstport", "4789", "local", "127.0.0.1")
}

func has(t *testing.T, device string) bool {
	t.Helper()
	return strings.Contains(ip(t, "-o", "link"), " "+device+": ")
}

func TestNetDevices(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	newNetwork(t)
	newDevice(t, "vx1", 1)
	ip(t, "link", "set", "vx1", "mtu", "1333", "address", "02:00:00:00:00:07")
	ip(t, "addr", "add", "10.9.8.7/24", "dev", "vx1")
	ip(t, "addr", "add", "169.254.3.4/16", "scope", "link", "dev", "vx1")
	ip(t, "addr", "add", "10.9.8.9/24", "valid_lft", "1000", "preferred_lft", "900", "dev", "vx1")
	ip(t, "addr", "add", "fd00:9::7/64", "nodad", "dev", "vx1")
	ip(t, "link", "set", "vx1", "up")
	newDevice(t, "vx2", 2)
	b := newBox(t, sh("/bin/busybox ip addr show dev inside; /bin/busybox ip -o link")...)
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"vx1": {Name: "inside"}, "vx2": {}}
	b.save()
	got := b.must("run", "-b", b.bundle, b.id)
	for _, want := range []string{"mtu 1333", "02:00:00:00:00:07", "inet 10.9.8.7/24", "inet6 fd00:9::7/64", "inside: <BROADCAST,MULTICAST,UP", "vx2: <BROADCAST,MULTICAST,UP"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	for _, no := range []string{"169.254.3.4", "10.9.8.9"} {
		if strings.Contains(got, no) {
			t.Errorf("%s went along:\n%s", no, got)
		}
	}
	// The namespace, and with it the device, has ended.
	b.eventually("the devices are gone", func() bool { return !has(t, "vx1") && !has(t, "vx2") && !has(t, "inside") })
}

// TestNetDevicesStay: in a namespace of somebody else they outlive the container,
// and a user namespace is no hindrance.
func TestNetDevicesStay(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	newNetwork(t)
	newDevice(t, "vx1", 1)
	newDevice(t, "vx2", 2)
	holder := exec.Command("/bin/busybox", "sleep", "1000")
	holder.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	must(t, holder.Start())
	t.Cleanup(func() { holder.Process.Kill(); holder.Wait() })
	path := fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid)
	b := newBox(t, sh("/bin/busybox ip -o link")...)
	for i := range b.spec.Linux.Namespaces {
		if b.spec.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			b.spec.Linux.Namespaces[i].Path = path
		}
	}
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"vx1": {Name: "ctr%d"}, "vx2": {Name: "ctr%d"}}
	b.save()
	got := b.must("run", "-b", b.bundle, b.id)
	if !strings.Contains(got, "ctr0: ") || !strings.Contains(got, "ctr1: ") {
		t.Errorf("got\n%s", got)
	}
	there, err := exec.Command("nsenter", "--net="+path, "ip", "-o", "link").CombinedOutput()
	must(t, err)
	if got := string(there); !strings.Contains(got, " ctr0@") || !strings.Contains(got, " ctr1@") {
		t.Errorf("after the container's end:\n%s", got)
	}
	// A name that is taken: nothing is moved.
	newDevice(t, "vx3", 3)
	newDevice(t, "vx4", 4)
	ip(t, "addr", "add", "10.3.3.3/24", "dev", "vx3")
	ip(t, "link", "set", "vx3", "up")
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"vx3": {Name: "x"}, "vx4": {Name: "ctr0"}}
	b.save()
	b.fails(1, "move the network device vx4 into the container: there is a device ctr0 already", "run", "-b", b.bundle, b.id)
	if got := ip(t, "addr", "show", "dev", "vx3"); !strings.Contains(got, "10.3.3.3/24") || !strings.Contains(got, ",UP") || !has(t, "vx4") {
		t.Errorf("after a failure vx3 is\n%s", got)
	}
	// A hook that fails: they come back, out of a namespace that ends, too.
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"vx3": {Name: "x"}}
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
	b.save()
	b.fails(1, "createRuntime", "run", "-b", b.bundle, b.id)
	if got := ip(t, "addr", "show", "dev", "vx3"); !strings.Contains(got, "10.3.3.3/24") {
		t.Errorf("after a failure vx3 is\n%s", got)
	}
	for i := range b.spec.Linux.Namespaces {
		if b.spec.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			b.spec.Linux.Namespaces[i].Path = ""
		}
	}
	b.save()
	b.fails(1, "createRuntime", "run", "-b", b.bundle, b.id)
	if got := ip(t, "addr", "show", "dev", "vx3"); !strings.Contains(got, "10.3.3.3/24") || !strings.Contains(got, ",UP") {
		t.Errorf("after a failure vx3 is\n%s", got)
	}
}

func TestNetDevicesUserNS(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	newNetwork(t)
	newDevice(t, "vx1", 1)
	b := newBox(t, sh("/bin/busybox ip -o link; cat /proc/sys/net/ipv4/conf/vx1/forwarding")...)
	b.userNS(100000)
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.conf.vx1.forwarding": "1"} // of a device that is not there before
	b.spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"vx1": {}}
	b.save()
	if got := b.must("run", "-b", b.bundle, b.id); !strings.Contains(got, "vx1: <BROADCAST,MULTICAST,UP") || !strings.HasSuffix(got, "\n1\n") {
		t.Errorf("got\n%s", got)
	}
}

func TestNetDevicesRefused(t *testing.T) {
	if reference != "" {
		t.Skip("runc from 1.4 on")
	}
	newNetwork(t)
	b := newBox(t, "true")
	try := func(words string, devices map[string]specs.LinuxNetDevice) {
		t.Helper()
		b.spec.Linux.NetDevices = devices
		b.save()
		b.fails(1, words, "run", "-b", b.bundle, b.id)
	}
	try("move the network device none into the container: there is no such device", map[string]specs.LinuxNetDevice{"none": {}})
	try(`invalid network device name "a/b"`, map[string]specs.LinuxNetDevice{"a/b": {}})
	try(`invalid network device name "sixteen-bytes-16"`, map[string]specs.LinuxNetDevice{"a": {Name: "sixteen-bytes-16"}})
	try(`invalid network device name "x%s"`, map[string]specs.LinuxNetDevice{"a": {Name: "x%s"}})
	try(`two network devices are to be named "b"`, map[string]specs.LinuxNetDevice{"a": {Name: "b"}, "b": {}})
	var list []specs.LinuxNamespace
	for _, n := range b.spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			list = append(list, n)
		}
	}
	b.spec.Linux.Namespaces = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())})
	newDevice(t, "vx1", 1)
	try("unable to move network devices without a NET namespace", map[string]specs.LinuxNetDevice{"vx1": {Name: "other"}})
	b.spec.Linux.Namespaces = list
	try("unable to move network devices without a NET namespace", map[string]specs.LinuxNetDevice{"vx1": {}})
	if !has(t, "vx1") {
		t.Error("vx1 is gone")
	}
	b.nothingLeft()
}
