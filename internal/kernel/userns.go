package kernel

import (
	"os"
	"strings"
	"sync"
)

// InUserNamespace tells whether this process is in another user namespace than the first one
// of the machine, where root may not use the attributes trusted.* nor make devices. The first
// one maps all ids to themselves (user_namespaces(7)).
var InUserNamespace = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
})
