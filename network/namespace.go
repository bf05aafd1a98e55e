package network

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNamespace is the network namespace of the calling thread, which is not
// always that of the process.
const threadNamespace = "/proc/thread-self/ns/net"

// NewNamespace makes a network namespace whose loopback interface is up. The
// returned descriptor is all that keeps it: there is no mount and no name, so
// it is gone when the descriptor is closed and no process is in it.
func NewNamespace() (*os.File, error) {
	var namespace *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare(CLONE_NEWNET): %w", err)
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		var err error
		namespace, err = os.Open(threadNamespace)
		return err
	})
	if err != nil {
		if namespace != nil {
			_ = namespace.Close()
		}
		return nil, fmt.Errorf("create network namespace: %w", err)
	}
	return namespace, nil
}

// LoopbackUp brings up the loopback interface of a namespace that
// NewNamespace has not made, such as one made by clone3.
func LoopbackUp(namespace *os.File) error {
	return inNamespace(namespace, loopbackUp)
}

func loopbackUp() error {
	return withSocket(func(fd int) error { return bringUp(fd, "lo") })
}

// inNamespace runs do on a thread that is in the given network namespace for
// as long. Sockets that do opens stay in that namespace.
func inNamespace(namespace *os.File, do func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return do()
	})
}

// onThread runs do on a thread of its own and puts that thread back into its
// network namespace afterwards. If it cannot be put back, the thread ends with
// its goroutine and no other code ever runs on it.
func onThread(do func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNamespace)
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("open own network namespace: %w", err)
			return
		}
		defer home.Close()
		err = do()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
