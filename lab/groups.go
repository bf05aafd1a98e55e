package lab

// removeGroup ends what is in the experiment's group, and removes that.
const removeGroup = "! viv cgroup ls -q /$LAB >/dev/null 2>&1 || { viv cgroup kill /$LAB && viv cgroup rm -r /$LAB; }"

// canName says whether the kernel lets a hierarchy without controllers be mounted
// (not with cgroup_no_v1=named, kernel-parameters).
const canName = "mkdir probe && mount -t cgroup -o none,name=$LAB cgroup probe && umount probe"

// onlyOne is why there can be no second hierarchy.
var onlyOne = Text{"This kernel mounts no hierarchies of v1. There is one hierarchy then, that of v2, with all controllers: a group below its root stands for one of one's own.",
	"这个内核不能挂载 v1 的 hierarchy。这时只有一个 v2 hierarchy，包含所有 subsystem：用它的根下面的一个 cgroup 代替自己的 hierarchy。"}

// forgetHierarchy removes the hierarchy of an experiment. One that is unmounted while
// the kernel still clears its groups away stays, mounted nowhere, until somebody mounts
// it by its name and unmounts it again.
const forgetHierarchy = `named() { grep -q ":name=$LAB:" /proc/self/cgroup; }
mounted() { grep -q " $(pwd)/cgroup-test " /proc/self/mountinfo; }
for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	named || exit 0
	[ -d cgroup-test ] || mkdir cgroup-test
	mounted || mount -t cgroup -o none,name=$LAB cgroup cgroup-test || exit 1
	for group in cgroup-test/cgroup-*/; do
		[ ! -d $group ] || { for pid in $(cat $group/cgroup.procs); do echo $pid >cgroup-test/cgroup.procs; done; rmdir $group; }
	done
	umount cgroup-test
	for wait in 1 2 3 4 5; do named || exit 0; sleep 0.1; done
done
exit 1`

// mountNamed mounts a hierarchy without controllers.
const mountNamed = "mkdir cgroup-test && viv cgroup mount -o none,name=$LAB cgroup-test && "

func groups() []Experiment {
	return []Experiment{
		buildTree(),
		{
			ID: "several", Title: Text{"A process in several groups, one of each hierarchy", "一个进程可以在多个 cgroup 中，只要属于不同的 hierarchy"},
			About: Text{"A process is in one group of each hierarchy: in as many groups as there are hierarchies, and of one hierarchy never in two.",
				"一个进程在每个 hierarchy 中各属于一个 cgroup：有几个 hierarchy 就在几个 cgroup 中；在同一个 hierarchy 中只能属于一个。"},
			Steps: []Step{
				{Say: Text{"A hierarchy of one's own with two groups, and one group where the memory controller is", "自己的 hierarchy，两个 cgroup；memory 所在的 hierarchy 里再建一个"},
					Run: mountNamed + "mkdir cgroup-test/cgroup-1 cgroup-test/cgroup-2 && viv cgroup create -g memory /$LAB"},
				{Say: Text{"A process goes into one of each: it is in both", "进程分别加入：它同时在两个 cgroup 中"}, Run: "sh -c 'echo $$ >cgroup-test/cgroup-1/cgroup.procs; viv cgroup attach /$LAB $$; grep $LAB /proc/$$/cgroup; true'",
					Without: "sh -c 'echo $$ >cgroup-test/cgroup-1/cgroup.procs; grep $LAB /proc/$$/cgroup; true'", Check: has("name=$LAB:/cgroup-1", ":/$LAB")},
				{Say: Text{"Into two of one hierarchy: it is in the second, and not in the first any more", "加入同一个 hierarchy 的两个 cgroup：只在后一个中"}, Run: "sh -c 'echo $$ >cgroup-test/cgroup-1/cgroup.procs; echo $$ >cgroup-test/cgroup-2/cgroup.procs; grep $LAB /proc/$$/cgroup; cat cgroup-test/cgroup-1/cgroup.procs; true'",
					Check: ends("name=$LAB:/cgroup-2")},
			},
			Cleanup: []string{removeGroup, forgetHierarchy},
			Needs:   canName,
			Instead: &Nearest{Why: onlyOne, Steps: []Step{
				{Say: Text{"Two groups", "两个 cgroup"}, Run: "viv cgroup create /$LAB/cgroup-1 && viv cgroup create /$LAB/cgroup-2"},
				{Say: Text{"A process that goes into both is in the second", "先后加入两个：只在后一个中"}, Run: "sh -c 'viv cgroup attach /$LAB/cgroup-1 $$; viv cgroup attach /$LAB/cgroup-2 $$; grep $LAB /proc/$$/cgroup; true'",
					Without: "sh -c 'viv cgroup attach /$LAB/cgroup-1 $$; grep $LAB /proc/$$/cgroup; true'", Check: has("/$LAB/cgroup-2", "!cgroup-1")},
			}},
		},
		{
			ID: "one", Title: Text{"A subsystem is on one hierarchy only", "一个 subsystem 只能附在一个 hierarchy 上"},
			About: Text{"What has the memory controller already keeps it as long as there are groups: no other hierarchy gets it together with others.", "只要还有子 cgroup，已经附加的 memory subsystem 就不能再附加到另一个 hierarchy 上。"},
			Steps: []Step{
				{Say: Text{"Where memory is now", "memory 现在在哪里"}, Run: "viv cgroup subsystems | awk '$1 == \"memory\"'", Save: "WHERE", Check: has("memory", "/sys/fs/cgroup")},
				{Say: Text{"A group that has it", "一个使用它的 cgroup"}, Run: "viv cgroup create -g memory /$LAB"},
				{Say: Text{"A second hierarchy that wants it, with cpu, is refused", "再挂载一个带 memory 和 cpu 的 hierarchy 会被拒绝"}, Run: "mkdir two && viv cgroup mount -o memory,cpu two", Without: "mkdir two", Fails: true},
				{Say: Text{"It is where it was", "memory 还在原处"}, Run: "viv cgroup subsystems | awk '$1 == \"memory\"'", Check: is("$WHERE")},
			},
			Cleanup: []string{"! grep -q \" $(pwd)/two \" /proc/self/mountinfo || umount two", removeGroup},
		},
		{
			ID: "memory", Title: Text{"Limit the memory of processes", "限制 cgroup 中进程的资源"},
			About: Text{"The kernel ends a process of a group that wants more memory than the group may have. dd with a block of 200 MB is what stress --vm-bytes 200m is in the notes.",
				"cgroup 中的进程要的内存超过限制时，会被内核结束。这里用 dd 的 200 MB 块代替笔记中的 stress --vm-bytes 200m。"},
			Steps: []Step{
				{Say: Text{"Outside, 200 MB are no trouble", "在外面 200 MB 没有问题"}, Run: "dd if=/dev/zero of=/dev/null bs=200M count=1"},
				{Say: Text{"A group with 100 MB", "限制为 100 MB 的 cgroup"}, Run: "viv cgroup create /$LAB && viv cgroup set /$LAB memory.max=100M", Without: "viv cgroup create /$LAB"},
				{Say: Text{"No swap instead, where the kernel counts that", "不用 swap 代替"}, Run: "viv cgroup set /$LAB memory.swap.max=0 || true"},
				{Say: Text{"Inside, 200 MB are too much", "在里面 200 MB 太多了"}, Run: "sh -c 'viv cgroup attach /$LAB $$ && exec dd if=/dev/zero of=/dev/null bs=200M count=1'", Fails: true},
				{Say: Text{"The group has counted the kill, and the most that was used", "cgroup 记录了这次结束和最高用量"}, Run: "viv cgroup stat --format '{{.OOMKills}} killed, at most {{.MemoryPeak}} of {{.MemoryLimit}}' /$LAB", Check: has("!0 killed", "100MiB")},
				{Say: Text{"10 MB are not", "10 MB 可以"}, Run: "sh -c 'viv cgroup attach /$LAB $$ && exec dd if=/dev/zero of=/dev/null bs=10M count=1'"},
			},
			Cleanup: []string{removeGroup},
		},
		{
			ID: "engine", Title: Text{"How a container engine uses cgroups", "Docker 是如何使用 Cgroups 的"},
			About: Text{"A container's limit is a file of its control group.", "容器的限制就是它的 cgroup 里的一个文件。"},
			Steps: []Step{
				{Say: Text{"A container with 128 MB; its image is this machine", "限制为 128 MB 的容器（镜像就是本机）"}, Run: "viv run -d -m 128m --name $LAB --network none host sleep 1000", Without: "viv run -d --name $LAB --network none host sleep 1000"},
				{Say: Text{"The limit in its group", "cgroup 中的限制"}, Run: "viv cgroup get $LAB memory.max", Check: is("134217728")},
				{Say: Text{"The files that limit and usage stand in", "限制和用量在哪些文件里"}, Run: "viv cgroup get --format '{{.File}} {{.Value}}' $LAB memory.max memory.current", Check: has("/sys/fs/cgroup", "/viv/")},
				{Say: Text{"The groups of its process", "它的进程所在的 cgroup"}, Run: "viv cgroup where $LAB", Check: has("/viv/")},
			},
			Cleanup: []string{"! viv inspect $LAB >/dev/null 2>&1 || viv rm -f $LAB"},
		},
		{
			ID: "program", Title: Text{"The Go program: limit a container by a cgroup", "用 Go 语言实现通过 cgroup 限制容器的资源"},
			About: Text{"What the notes' program does, in its order: a child in namespaces of its own, which has number 1 inside and another outside; a group; the child's number into it; the limit. examples/limit is the same in Go.",
				"按笔记中程序的顺序：在新的 Namespace 中启动子进程（里面是 1 号，外面是另一个号）；建立 cgroup；写入进程号；写入限制。examples/limit 是同样的 Go 程序。"},
			Steps: []Step{
				{Say: Text{"A child in UTS, PID and mount namespaces of its own, which waits; its number outside", "在新的 UTS、PID、Mount Namespace 中启动等待的子进程；它在外面的号"},
					Run: program, Save: "PID"},
				{Say: Text{"Its numbers outside and inside", "它在外面和里面的进程号"}, Run: "grep NSpid /proc/$PID/status", Check: ends("\t1")},
				{Say: Text{"A group for it, and its number into that", "建立 cgroup，写入进程号"}, Run: "viv cgroup create /$LAB && viv cgroup attach /$LAB $PID && grep -q $LAB /proc/$PID/cgroup"},
				{Say: Text{"The limit", "写入限制"}, Run: "viv cgroup set /$LAB memory.max=100M; viv cgroup set /$LAB memory.swap.max=0 || true", Without: "-"},
				{Say: Text{"It goes on, and wants 200 MB: the kernel ends it", "它继续运行，要 200 MB：被内核结束"}, Run: "echo go >go; until [ -s end ]; do sleep 0.05; done; cat end", Check: is("137")},
			},
			Cleanup: []string{removeGroup},
		},
	}
}

// program starts the child of the experiment of that name, prints its number outside, and
// lets its end be noted in a file.
const program = `mkfifo go
( viv ns run --uts --pid --mount --fork --mount-proc sh -c 'read line <go; exec dd if=/dev/zero of=/dev/null bs=200M count=1' & child=$!
until [ -n "$(cat /proc/$child/task/*/children)" ]; do sleep 0.05; done
cat /proc/$child/task/*/children | tr -d ' ' >pid.new; mv pid.new pid; wait $child; echo $? >end ) >/dev/null 2>&1 &
until [ -s pid ]; do sleep 0.05; done; cat pid`

// buildTree is the tree that the notes build, and what they say of processes in it.
func buildTree() Experiment {
	return Experiment{
		ID: "tree", Title: Text{"Hierarchies: build a cgroup tree", "hierarchy 实践：建立 cgroup 树"},
		About: Text{"A new hierarchy has all processes in its root. A directory below it is a group. A process can be moved; its children begin where it is.",
			"新建 hierarchy 后所有进程都在根节点；子目录就是子 cgroup。进程可以移动；fork 出的子进程默认与父进程同组。"},
		Steps: []Step{
			{Say: Text{"A hierarchy without controllers, with a name", "一个没有 subsystem 的 hierarchy"}, Run: mountNamed + "ls cgroup-test", Check: has("cgroup.procs", "tasks")},
			{Say: Text{"All processes are in its root: how many are not", "所有进程都在根节点：不在根节点的进程数"}, Run: "grep -L \"name=$LAB:/$\" /proc/[0-9]*/cgroup 2>/dev/null | wc -l", Check: is("0")},
			{Say: Text{"Two groups below", "扩展两个子节点"}, Run: "mkdir cgroup-test/cgroup-1 cgroup-test/cgroup-2 && ls -d cgroup-test/*/", Check: has("cgroup-1", "cgroup-2")},
			{Say: Text{"A shell moves into one, and its child is there, too", "shell 移入其中一个，子进程也在那里"}, Run: "sh -c 'echo $$ >cgroup-test/cgroup-1/tasks; cat /proc/self/cgroup; true' | grep name=$LAB",
				Without: "sh -c 'cat /proc/self/cgroup; true' | grep name=$LAB", Check: has("name=$LAB:/cgroup-1")},
			{Say: Text{"The child moves to the other: where it is, and where its parent is", "子进程移到另一个：它在哪里，父进程在哪里"}, Run: "sh -c 'echo $$ >cgroup-test/cgroup-1/tasks; sh -c \"echo \\$\\$ >cgroup-test/cgroup-2/tasks; grep name=$LAB /proc/\\$\\$/cgroup\"; grep name=$LAB /proc/$$/cgroup; true'",
				Without: "grep name=$LAB /proc/self/cgroup", Check: has("name=$LAB:/cgroup-2", "name=$LAB:/cgroup-1")},
		},
		Cleanup: []string{forgetHierarchy, removeGroup},
		Needs:   canName,
		Instead: &Nearest{Why: onlyOne, Steps: []Step{
			{Say: Text{"The root of the hierarchy that there is", "现有 hierarchy 的根"}, Run: "viv cgroup subsystems", Check: has("v2")},
			{Say: Text{"A group, and two below", "一个 cgroup，下面扩展两个子节点"}, Run: "viv cgroup create /$LAB/cgroup-1 && viv cgroup create /$LAB/cgroup-2 && viv cgroup tree /$LAB", Check: has("cgroup-1", "cgroup-2")},
			{Say: Text{"A shell moves into one, and its child is there, too", "shell 移入其中一个，子进程也在那里"}, Run: "sh -c 'viv cgroup attach /$LAB/cgroup-1 $$; cat /proc/self/cgroup; true'",
				Without: "cat /proc/self/cgroup", Check: has("/$LAB/cgroup-1")},
			{Say: Text{"The child moves to the other: where it is, and where its parent is", "子进程移到另一个：它在哪里，父进程在哪里"}, Run: "sh -c 'viv cgroup attach /$LAB/cgroup-1 $$; sh -c \"viv cgroup attach /$LAB/cgroup-2 \\$\\$; cat /proc/\\$\\$/cgroup; true\"; cat /proc/$$/cgroup; true'",
				Without: "cat /proc/self/cgroup", Check: has("/$LAB/cgroup-2", "/$LAB/cgroup-1")},
		}},
	}
}
