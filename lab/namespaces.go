package lab

// Experiments gives all of them, in the order in which they are best read.
func Experiments() []Experiment {
	return append(namespaces(), append(groups(), unions()...)...)
}

// Find gives the experiment of an ID.
func Find(id string) (Experiment, bool) {
	for _, e := range Experiments() {
		if e.ID == id {
			return e, true
		}
	}
	return Experiment{}, false
}

// stays is a command for sh -c that puts its number into the file pid and goes on.
const stays = `sh -c 'echo $$ >pid.new; mv pid.new pid; exec sleep 1000'`

// inBackground starts a command that begins with stays, and waits until its number is there.
func inBackground(command string) string {
	return command + " >/dev/null 2>&1 &\nuntil [ -s pid ]; do sleep 0.05; done; cat pid"
}

func namespaces() []Experiment {
	return []Experiment{
		{
			ID: "calls", Rootless: true, Title: Text{"The system calls: clone, unshare, setns", "系统调用：clone、unshare、setns"},
			About: Text{"A process is born in new namespaces (clone), leaves its own for new ones (unshare), or joins those of another (setns).",
				"进程可以在新的 Namespace 中诞生（clone），离开原来的 Namespace（unshare），或加入别的进程的 Namespace（setns）。"},
			Steps: []Step{
				{Say: Text{"The UTS namespace of this shell", "当前 shell 的 UTS Namespace"}, Run: "readlink /proc/self/ns/uts", Save: "OWN"},
				{Say: Text{"A child that unshare(1) has put into a new one", "unshare(1) 放进新 Namespace 的子进程"}, Run: "unshare {user} --uts readlink /proc/self/ns/uts", Without: "readlink /proc/self/ns/uts", Check: isNot("$OWN")},
				{Say: Text{"A process that was born in a new one, and stays; its number outside", "在新 Namespace 中诞生并留下的进程；它在外面的号"}, Run: inBackground("viv ns run {user} --uts " + stays), Save: "PID"},
				{Say: Text{"Its namespace", "它的 Namespace"}, Run: "readlink /proc/$PID/ns/uts", Save: "THEIRS", Check: isNot("$OWN")},
				{Say: Text{"Another process joins it", "另一个进程加入它"}, Run: "viv ns enter -t $PID {their user} --uts readlink /proc/self/ns/uts", Without: "readlink /proc/self/ns/uts", Check: is("$THEIRS")},
			},
		},
		{
			ID: "uts", Rootless: true, Title: Text{"UTS namespace: the host name", "UTS Namespace：主机名"},
			About: Text{"What a process in a UTS namespace of its own calls the machine, nobody outside sees.", "在自己的 UTS Namespace 里改主机名，外面看不到。"},
			Steps: []Step{
				{Say: Text{"The host name, outside", "外面的主机名"}, Run: "hostname", Save: "HOST"},
				{Say: Text{"Inside it is changed", "在里面修改"}, Run: "viv ns run {user} --uts sh -c 'hostname bird; hostname'", Without: "hostname", Check: is("bird")},
				{Say: Text{"Outside it is what it was", "外面没有变"}, Run: "hostname", Check: is("$HOST")},
			},
		},
		{
			ID: "ipc", Rootless: true, Title: Text{"IPC namespace: message queues", "IPC Namespace：消息队列"},
			About: Text{"A message queue is seen in its own IPC namespace only.", "消息队列只在自己的 IPC Namespace 中可见。"},
			Steps: []Step{
				{Say: Text{"Make a queue, outside", "在外面建一个队列"}, Run: "ipcmk -Q >queue && grep -o '[0-9]*$' queue", Save: "QUEUE"},
				{Say: Text{"Outside it is there", "外面能看到"}, Run: "ipcs -q | awk '{print $2}'", Check: has("$QUEUE")},
				{Say: Text{"Inside there is none", "里面没有队列"}, Run: "viv ns run {user} --ipc ipcs -q | awk '$2 ~ /^[0-9]+$/ {print $2}'", Without: "ipcs -q | awk '$2 ~ /^[0-9]+$/ {print $2}'", Check: is("")},
			},
			Cleanup: []string{`[ ! -s queue ] || ! ipcs -q | awk '{print $2}' | grep -qx $(grep -o '[0-9]*$' queue) || ipcrm -q $(grep -o '[0-9]*$' queue)`},
		},
		{
			ID: "pid", Rootless: true, Title: Text{"PID namespace: process numbers", "PID Namespace：进程号"},
			About: Text{"The first process of a PID namespace is 1 inside, and has another number outside. With a proc of its own it sees no other.",
				"PID Namespace 的第一个进程在里面是 1，在外面是另一个号码。挂载自己的 proc 后看不到别的进程。"},
			Steps: []Step{
				{Say: Text{"Inside, the shell is number 1", "里面的 shell 是 1 号"}, Run: "viv ns run {user} --pid --mount-proc sh -c 'echo $$'", Without: "sh -c 'echo $$'", Check: is("1")},
				{Say: Text{"And proc shows only what is inside", "proc 里只有里面的进程"}, Run: "viv ns run {user} --pid --mount-proc sh -c 'cat /proc/1/comm; ls -d /proc/[0-9]* | head -c 8'", Without: "sh -c 'cat /proc/1/comm'", Check: has("sh", "/proc/1")},
				{Say: Text{"One that stays. The proc of outside tells it its number outside", "留下的进程。外面的 proc 告诉它在外面的号"}, Run: inBackground("viv ns run {user} --pid sh -c 'read n rest </proc/self/stat; echo $n >pid.new; mv pid.new pid; exec sleep 1000'"), Save: "PID", Check: isNot("1")},
				{Say: Text{"Both its numbers, looked at from outside", "从外面看它的两个进程号"}, Run: "grep NSpid /proc/$PID/status", Check: ends("\t1")},
			},
		},
		{
			ID: "mount", Rootless: true, Title: Text{"Mount namespace: the file systems in sight", "Mount Namespace：挂载点视图"},
			About: Text{"What is mounted in a mount namespace of its own, nobody outside sees.", "在自己的 Mount Namespace 中的挂载，外面看不到。"},
			Steps: []Step{
				{Say: Text{"A directory", "一个目录"}, Run: "mkdir dir"},
				{Say: Text{"Inside, a file system is mounted on it, with a file", "在里面挂载文件系统并建一个文件"}, Run: "viv ns run {user} --mount sh -c 'mount -t tmpfs lab dir && touch dir/inside && ls dir'", Without: "touch dir/inside; ls dir", Check: is("inside")},
				{Say: Text{"Outside it is empty", "外面仍是空的"}, Run: "ls dir", Check: is("")},
				{Say: Text{"Mounting proc, as the notes do: ls /proc shows what is inside", "像笔记里那样挂载 proc：ls /proc 只有里面的进程"}, Run: "viv ns run {user} --mount --pid sh -c 'mount -t proc proc /proc && ls /proc | grep -c \"^[0-9]\"'", Without: "-", Check: between("", 1, 6)},
			},
		},
		{
			ID: "user", Rootless: true, Title: Text{"User namespace: who one is", "User Namespace：用户与组"},
			About: Text{"In a new user namespace one is nobody, until an id is mapped: then one can be root inside, and outside is what one was.",
				"新的 User Namespace 里先是 nobody；映射之后里面可以是 root，外面还是原来的用户。"},
			Steps: []Step{
				{Say: Text{"Without a map: the overflow id", "没有映射：溢出 ID"}, Run: "viv ns run --user id -u", Without: "id -u", Check: is("65534")},
				{Say: Text{"Mapped to root", "映射为 root"}, Run: "viv ns run --user --map-root-user id -u", Check: is("0")},
				{Say: Text{"Which is a number of ours outside", "对应外面的我们"}, Run: "viv ns run --user --map-root-user sh -c 'set -- $(cat /proc/self/uid_map); echo $1 $2 $3'; id -u", Check: mapsToOwn},
			},
		},
		{
			ID: "net", Rootless: true, Title: Text{"Network namespace: interfaces", "Network Namespace：网络设备"},
			About: Text{"A new network namespace has nothing but a loopback interface, which is down.", "新的 Network Namespace 里只有未启用的 lo。"},
			Steps: []Step{
				{Say: Text{"The interfaces outside", "外面的网络设备"}, Run: "ip -o link | cut -d: -f2 | tr -d ' '"},
				{Say: Text{"The network namespace outside", "外面的 Network Namespace"}, Run: "readlink /proc/self/ns/net", Save: "OWN"},
				{Say: Text{"Inside is another", "里面是另一个"}, Run: "viv ns run {user} --net readlink /proc/self/ns/net", Without: "readlink /proc/self/ns/net", Check: isNot("$OWN")},
				{Say: Text{"With one interface", "只有一个设备"}, Run: "viv ns run {user} --net ip -o link | cut -d: -f2 | tr -d ' '", Check: is("lo")},
			},
		},
		cgroupNamespace(),
		{
			ID: "time", Rootless: true, Title: Text{"Time namespace: how long the machine has been up", "Time Namespace：开机时间"},
			About: Text{"The eighth kind, younger than the notes (Linux 5.6): the clocks that count from the boot can be shifted for those inside.",
				"第八种 Namespace，比笔记新（Linux 5.6）：从开机开始计时的时钟可以为里面的进程偏移。"},
			Steps: []Step{
				{Say: Text{"Seconds since the boot, outside", "外面：开机以来的秒数"}, Run: "cut -d. -f1 /proc/uptime", Save: "UP"},
				{Say: Text{"Inside a million have been added", "里面多了一百万秒"}, Run: "viv ns run {user} --time --boottime 1000000 cut -d. -f1 /proc/uptime", Without: "cut -d. -f1 /proc/uptime", Check: between("UP", 1000000, 1001000)},
				{Say: Text{"Outside the clock goes on as before", "外面的时钟不受影响"}, Run: "cut -d. -f1 /proc/uptime", Check: between("UP", 0, 1000)},
			},
		},
	}
}

func cgroupNamespace() Experiment {
	return Experiment{
		ID: "cgroup", Title: Text{"Cgroup namespace: the root of the control groups", "Cgroup Namespace：cgroup 的根"},
		About: Text{"For those in a cgroup namespace, the group in which it was made is the root: they see nothing above.",
			"在 Cgroup Namespace 里，创建它时所在的 cgroup 就是根，看不到上面的路径。"},
		Steps: []Step{
			{Say: Text{"A group", "一个 cgroup"}, Run: "viv cgroup create /$LAB"},
			{Say: Text{"A process that goes into it, makes a cgroup namespace there, and stays; its number", "进程进入该 cgroup，在那里创建 Cgroup Namespace 并留下；它的号"},
				Run: inBackground("sh -c 'viv cgroup attach /$LAB $$ && exec viv ns run --cgroup " + `sh -c "echo \$\$ >pid.new; mv pid.new pid; exec sleep 1000"'`), Save: "PID"},
			{Say: Text{"Its groups, looked at from outside", "从外面看它的 cgroup"}, Run: "cut -d: -f3 /proc/$PID/cgroup | sort -u", Check: has("/$LAB")},
			{Say: Text{"The same file, looked at from inside", "从里面看同一个文件"}, Run: "viv ns enter -t $PID --cgroup cut -d: -f3 /proc/$PID/cgroup | sort -u", Without: "cut -d: -f3 /proc/$PID/cgroup | sort -u", Check: is("/")},
		},
		Cleanup: []string{removeGroup},
	}
}
