package kernel

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProbesAgreeWithOlderOnes: a kernel that has a newer feature has the older
// ones it stands on, so an answer that says otherwise is a broken probe.
func TestProbesAgreeWithOlderOnes(t *testing.T) {
	probes := []struct {
		name string
		is   func() error
		root bool
	}{
		{"clone3", Clone3, false}, {"openat2", Openat2, false}, {"clone into cgroup", CloneIntoCgroup, false},
		{"close_range", CloseRange, false}, {"mount_setattr", MountSetattr, false}, {"time namespaces", TimeNamespaces, false},
		{"memfd exec", MemfdExec, false}, {"overlay lowerdir+", OverlayAppend, true}, {"overlay fd", OverlayFD, true},
		{"pidfd exit info", PidfdInfoExit, false},
	}
	for _, p := range probes {
		err := p.is()
		t.Logf("%s: %v", p.name, err)
		if err != nil && !errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v is not ErrMissing", p.name, err)
		}
		if again := p.is(); !errors.Is(again, err) {
			t.Errorf("%s: a second answer differs: %v", p.name, again)
		}
	}
	if PidfdInfoExit() == nil {
		for _, p := range probes {
			if p.root && os.Geteuid() != 0 || p.name == "time namespaces" || p.name == "memfd exec" {
				continue // these depend on configuration
			}
			if err := p.is(); err != nil {
				t.Errorf("the kernel is 6.15 or later, yet: %v", err)
			}
		}
	}
}

func TestMissingSaysWhy(t *testing.T) {
	var f feature
	calls := 0
	try := func() error { calls++; return unix.ENOSYS }
	for range 3 {
		err := f.probe("walking", try)
		if !errors.Is(err, ErrMissing) || !errors.Is(err, unix.ENOSYS) {
			t.Errorf("got %v", err)
		}
	}
	if calls != 1 {
		t.Errorf("tried %d times", calls)
	}
}
