package validation

// Reasons says, of each program that does not pass on viv-oci, why that is so.
var Reasons = map[string]string{
	"delete":                         "wants delete to refuse a container that is created; engines rely on runc, which kills and deletes it",
	"delete_resources":               "compares the address of the pids limit, a pointer since runtime-spec 1.3, not the limit",
	"hooks":                          "wants its poststart and poststop hooks to have written other words than it has them write",
	"linux_cgroups_blkio":            "sets leaf weights, which left the kernel with CFQ in Linux 5.0",
	"linux_cgroups_hugetlb":          "needs the hugetlb controller, which is not mounted here",
	"linux_cgroups_memory":           "sets limits of kernel memory, which the kernel takes and ignores since Linux 5.16",
	"linux_cgroups_network":          "needs the net_cls and net_prio controllers, which are not mounted here",
	"linux_cgroups_pids":             "compares the address of the pids limit, a pointer since runtime-spec 1.3, not the limit",
	"linux_cgroups_relative_blkio":   "sets leaf weights, which left the kernel with CFQ in Linux 5.0",
	"linux_cgroups_relative_hugetlb": "needs the hugetlb controller, which is not mounted here",
	"linux_cgroups_relative_memory":  "sets limits of kernel memory, which the kernel takes and ignores since Linux 5.16",
	"linux_cgroups_relative_network": "needs the net_cls and net_prio controllers, which are not mounted here",
	"linux_cgroups_relative_pids":    "compares the address of the pids limit, a pointer since runtime-spec 1.3, not the limit",
	"linux_process_apparmor_profile": "needs AppArmor, which this kernel does not have",
	"misc_props":                     "runs /runtimetest, which it does not put into its bundle",
	"pidfile":                        "kills a container whose process, true, has ended by then; runc's kill says that it is not running",
	"poststart_fail":                 "wants start to go on when a poststart hook fails; runtime-spec 1.3 has it give an error and stop the container",
	"prestart":                       "wants prestart hooks to run in start; the specification has them in create since 1.0.2",
	"process_capabilities":           "asks for every capability; root does not have CAP_SYS_RESOURCE here",
	"process_rlimits":                "reads its own soft RLIMIT_NOFILE, which Go raises to the hard one at its start since 1.19",
	"process_capabilities_fail":      `wants an unknown capability to be an error; runtime-spec 1.3, config.md "Linux Process", wants a warning`,
	"start":                          "wants create and start to succeed without process, where it says itself that start must fail",
}

// Races are programs that fail now and then whatever the runtime does, each with
// what races in it. They run again, by themselves, until they pass.
var Races = map[string]string{
	"killsig":        "signals its container's shell, which may not have set its trap yet",
	"poststart":      "its process and its poststart hook write into one file, in the order in which they come to it",
	"poststart_fail": "as poststart",
}

// Stricter are programs that pass on a peer and may complain on viv-oci, with the
// reason: TAP counts them as passed.
var Stricter = map[string]string{
	"poststart_fail": "crun 1.8 keeps to runtime-spec 1.0, and goes on after a poststart hook that failed",
}
