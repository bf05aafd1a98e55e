package unionfstest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// as runs fn as another user for the file system: on a thread of its own, which
// ends with it.
func as(t *testing.T, id int, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		if err := unix.Setgroups(nil); err != nil {
			t.Error(err)
		}
		_ = unix.Setfsgid(id)
		_ = unix.Setfsuid(id)
		fn()
	}()
	<-done
}
