package sandbox

// HookNames lists the hooks that are run.
func HookNames() []string { return nil }
