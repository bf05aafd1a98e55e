package lab

// inBackground starts a command in new namespaces that goes on, and waits until its
// number is in the file pid.
func inBackground(flags string) string {
	return "viv ns run " + flags + ` sh -c 'echo $$ >pid.new; mv pid.new pid; exec sleep 1000' >/dev/null 2>&1 &` +
		"\nuntil [ -s pid ]; do sleep 0.05; done; cat pid"
}

// stop ends it.
const stop = `[ ! -s pid ] || ! kill -9 $(cat pid) 2>/dev/null || while kill -0 $(cat pid) 2>/dev/null && ! grep -q '^State:.Z' /proc/$(cat pid)/status; do sleep 0.05; done`

// forgetHierarchy waits until the hierarchy of an experiment is gone. One that is
// unmounted while the kernel still clears its groups away stays, mounted nowhere, until
// somebody mounts it by its name and unmounts it again.
const forgetHierarchy = `gone() { ! grep -q ":name=$LAB:" /proc/self/cgroup; }
for try in 1 2 3 4 5; do
	for wait in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do gone && exit 0; sleep 0.1; done
	mount -t cgroup -o none,name=$LAB cgroup cgroup-test && umount cgroup-test
done
exit 1`

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

func namespaces() []Experiment {
	return []Experiment{
		{
			ID: "calls", Title: Text{"The system calls: clone, unshare, setns", "系统调用：clone、unshare、setns"},
			About: Text{"A process is born in new namespaces (clone), leaves its own for new ones (unshare), or joins those of another (setns).",
				"进程可以在新的 Namespace 中诞生（clone），离开原来的 Namespace（unshare），或加入别的进程的 Namespace（setns）。"},
			Steps: []Step{
				{Say: Text{"The UTS namespace of this shell", "当前 shell 的 UTS Namespace"}, Run: "readlink /proc/self/ns/uts", Save: "OWN"},
				{Say: Text{"A child that unshare(1) has put into a new one", "unshare(1) 放进新 Namespace 的子进程"}, Run: "unshare --uts readlink /proc/self/ns/uts", Without: "readlink /proc/self/ns/uts", Check: isNot("OWN")},
				{Say: Text{"A process that was born in a new one, and stays", "在新 Namespace 中诞生并留下的进程"}, Run: inBackground("--uts"), Save: "PID"},
				{Say: Text{"Its namespace", "它的 Namespace"}, Run: "readlink /proc/$PID/ns/uts", Save: "THEIRS", Check: isNot("OWN")},
				{Say: Text{"Another process joins it", "另一个进程加入它"}, Run: "viv ns enter -t $PID --uts readlink /proc/self/ns/uts", Without: "readlink /proc/self/ns/uts", Check: is("$THEIRS")},
			},
			Cleanup: []string{stop},
		},
		{
			ID: "uts", Title: Text{"UTS namespace: the host name", "UTS Namespace：主机名"},
			About: Text{"What a process in a UTS namespace of its own calls the machine, nobody outside sees.", "在自己的 UTS Namespace 里改主机名，外面看不到。"},
			Steps: []Step{
				{Say: Text{"The host name, outside", "外面的主机名"}, Run: "hostname", Save: "HOST"},
				{Say: Text{"Inside it is changed", "在里面修改"}, Run: "viv ns run --uts sh -c 'hostname bird; hostname'", Without: "hostname", Check: is("bird")},
				{Say: Text{"Outside it is what it was", "外面没有变"}, Run: "hostname", Check: is("$HOST")},
			},
		},
		{
			ID: "ipc", Title: Text{"IPC namespace: message queues", "IPC Namespace：消息队列"},
			About: Text{"A message queue is seen in its own IPC namespace only.", "消息队列只在自己的 IPC Namespace 中可见。"},
			Steps: []Step{
				{Say: Text{"Make a queue, outside", "在外面建一个队列"}, Run: "ipcmk -Q | tee queue | grep -o '[0-9]*$'", Save: "QUEUE"},
				{Say: Text{"Outside it is there", "外面能看到"}, Run: "ipcs -q | awk '{print $2}'", Check: has("$QUEUE")},
				{Say: Text{"Inside there is none", "里面没有队列"}, Run: "viv ns run --ipc ipcs -q | awk '$2 ~ /^[0-9]+$/ {print $2}'", Without: "ipcs -q | awk '$2 ~ /^[0-9]+$/ {print $2}'", Check: is("")},
			},
			Cleanup: []string{`[ ! -s queue ] || ipcrm -q $(grep -o '[0-9]*$' queue)`},
		},
		{
			ID: "pid", Title: Text{"PID namespace: process numbers", "PID Namespace：进程号"},
			About: Text{"The first process of a PID namespace is 1 inside, and has another number outside. With a proc of its own it sees no other.",
				"PID Namespace 的第一个进程在里面是 1，在外面是另一个号码。挂载自己的 proc 后看不到别的进程。"},
			Steps: []Step{
				{Say: Text{"Inside, the shell is number 1", "里面的 shell 是 1 号"}, Run: "viv ns run --pid --mount-proc sh -c 'echo $$'", Without: "sh -c 'echo $$'", Check: is("1")},
				{Say: Text{"And proc shows only what is inside", "proc 里只有里面的进程"}, Run: "viv ns run --pid --mount-proc sh -c 'cat /proc/1/comm; ls -d /proc/[0-9]* | head -c 8'", Without: "sh -c 'cat /proc/1/comm'", Check: has("sh", "/proc/1")},
			},
		},
		{
			ID: "mount", Title: Text{"Mount namespace: the file systems in sight", "Mount Namespace：挂载点视图"},
			About: Text{"What is mounted in a mount namespace of its own, nobody outside sees.", "在自己的 Mount Namespace 中的挂载，外面看不到。"},
			Steps: []Step{
				{Say: Text{"A directory", "一个目录"}, Run: "mkdir dir"},
				{Say: Text{"Inside, a file system is mounted on it, with a file", "在里面挂载文件系统并建一个文件"}, Run: "viv ns run --mount sh -c 'mount -t tmpfs lab dir && touch dir/inside && ls dir'", Without: "touch dir/inside; ls dir", Check: is("inside")},
				{Say: Text{"Outside it is empty", "外面仍是空的"}, Run: "ls dir", Check: is("")},
			},
		},
		{
			ID: "user", Rootless: true, Title: Text{"User namespace: who one is", "User Namespace：用户与组"},
			About: Text{"In a new user namespace one is nobody, until an id is mapped: then one can be root inside, and outside is what one was.",
				"新的 User Namespace 里先是 nobody；映射之后里面可以是 root，外面还是原来的用户。"},
			Steps: []Step{
				{Say: Text{"Without a map: the overflow id", "没有映射：溢出 ID"}, Run: "viv ns run --user id -u", Without: "id -u", Check: is("65534")},
				{Say: Text{"Mapped to root", "映射为 root"}, Run: "viv ns run --user --map-root-user id -u", Check: is("0")},
				{Say: Text{"Which is a number of ours outside", "对应外面的我们"}, Run: "viv ns run --user --map-root-user sh -c 'set -- $(cat /proc/self/uid_map); echo $1 $2 $3'; id -u", Save: "MAP",
					Check: func(out string, _ map[string]string) error { return mapsToOwn(out) }},
			},
		},
		{
			ID: "net", Title: Text{"Network namespace: interfaces", "Network Namespace：网络设备"},
			About: Text{"A new network namespace has nothing but a loopback interface, which is down.", "新的 Network Namespace 里只有未启用的 lo。"},
			Steps: []Step{
				{Say: Text{"The interfaces outside", "外面的网络设备"}, Run: "ip -o link | cut -d: -f2 | tr -d ' '"},
				{Say: Text{"The network namespace outside", "外面的 Network Namespace"}, Run: "readlink /proc/self/ns/net", Save: "OWN"},
				{Say: Text{"Inside is another", "里面是另一个"}, Run: "viv ns run --net readlink /proc/self/ns/net", Without: "readlink /proc/self/ns/net", Check: isNot("OWN")},
				{Say: Text{"With one interface", "只有一个设备"}, Run: "viv ns run --net ip -o link | cut -d: -f2 | tr -d ' '", Check: is("lo")},
			},
		},
	}
}

func groups() []Experiment {
	return []Experiment{
		{
			ID: "tree", Title: Text{"Hierarchies: build a cgroup tree", "hierarchy 实践：建立 cgroup 树"},
			About: Text{"A new hierarchy has all processes in its root. A directory below it is a group. A process is in one group of each hierarchy, and can be moved; its children begin where it is.",
				"新建 hierarchy 后所有进程都在根节点；子目录就是子 cgroup。进程在每个 hierarchy 中只属于一个 cgroup，可以移动；fork 出的子进程默认与父进程同组。"},
			Steps: []Step{
				{Say: Text{"A hierarchy without controllers, with a name", "一个没有 subsystem 的 hierarchy"}, Run: "mkdir cgroup-test && viv cgroup mount -o none,name=$LAB cgroup-test && ls cgroup-test", Check: has("cgroup.procs", "tasks")},
				{Say: Text{"This shell is in its root, as all processes are", "所有进程都在根节点，也包括这个 shell"}, Run: "grep -c . cgroup-test/cgroup.procs; grep name=$LAB /proc/self/cgroup", Check: has("name=$LAB:/", "!cgroup-1")},
				{Say: Text{"Two groups below", "扩展两个子节点"}, Run: "mkdir cgroup-test/cgroup-1 cgroup-test/cgroup-2 && ls -d cgroup-test/*/", Check: has("cgroup-1", "cgroup-2")},
				{Say: Text{"A shell moves into one, and its child is there, too", "shell 移入其中一个，子进程也在那里"}, Run: "sh -c 'echo $$ >cgroup-test/cgroup-1/cgroup.procs; cat /proc/self/cgroup' | grep name=$LAB",
					Without: "sh -c 'cat /proc/self/cgroup' | grep name=$LAB", Check: has("name=$LAB:/cgroup-1")},
				{Say: Text{"The child can be moved to another", "子进程可以移到另一个"}, Run: "sh -c 'echo $$ >cgroup-test/cgroup-1/cgroup.procs; sh -c \"echo \\$\\$ >cgroup-test/cgroup-2/cgroup.procs; grep name=$LAB /proc/self/cgroup; grep name=$LAB /proc/$$/cgroup\"'",
					Without: "grep name=$LAB /proc/self/cgroup", Check: has("name=$LAB:/cgroup-2", "name=$LAB:/cgroup-1")},
			},
			Cleanup: []string{"[ ! -d cgroup-test/cgroup-1 ] || rmdir cgroup-test/cgroup-1", "[ ! -d cgroup-test/cgroup-2 ] || rmdir cgroup-test/cgroup-2", "! grep -q \" $(pwd)/cgroup-test \" /proc/self/mountinfo || umount cgroup-test", forgetHierarchy},
		},
		{
			ID: "one", Title: Text{"A subsystem is on one hierarchy only", "一个 subsystem 只能附在一个 hierarchy 上"},
			About: Text{"What has the memory controller already keeps it: no other hierarchy gets it together with others.", "已经附加的 memory subsystem 不能再附加到另一个 hierarchy 上。"},
			Steps: []Step{
				{Say: Text{"Where memory is now", "memory 现在在哪里"}, Run: "viv cgroup subsystems | awk '$1 == \"memory\"'", Check: has("memory", "/sys/fs/cgroup")},
				{Say: Text{"A second hierarchy that wants it, with cpu, is refused", "再挂载一个带 memory 和 cpu 的 hierarchy 会被拒绝"}, Run: "mkdir two && viv cgroup mount -o memory,cpu two", Without: "mkdir two", Fails: true},
			},
			Cleanup: []string{"! grep -q \" $(pwd)/two \" /proc/self/mountinfo || umount two"},
		},
		{
			ID: "memory", Title: Text{"Limit the memory of processes", "限制 cgroup 中进程的资源"},
			About: Text{"The kernel ends a process of a group that wants more memory than the group may have.", "cgroup 中的进程要的内存超过限制时，会被内核结束。"},
			Steps: []Step{
				{Say: Text{"Outside, 200 MB are no trouble", "在外面 200 MB 没有问题"}, Run: "dd if=/dev/zero of=/dev/null bs=200M count=1"},
				{Say: Text{"A group with 100 MB", "限制为 100 MB 的 cgroup"}, Run: "viv cgroup create /$LAB && viv cgroup set /$LAB memory.max=100M", Without: "viv cgroup create /$LAB"},
				{Say: Text{"No swap instead, where the kernel counts that", "不用 swap 代替"}, Run: "viv cgroup set /$LAB memory.swap.max=0 || true"},
				{Say: Text{"Inside, 200 MB are too much", "在里面 200 MB 太多了"}, Run: "sh -c 'viv cgroup attach /$LAB $$ && exec dd if=/dev/zero of=/dev/null bs=200M count=1'", Fails: true},
				{Say: Text{"10 MB are not", "10 MB 可以"}, Run: "sh -c 'viv cgroup attach /$LAB $$ && exec dd if=/dev/zero of=/dev/null bs=10M count=1'"},
			},
			Cleanup: []string{"! viv cgroup ls -q /$LAB >/dev/null 2>&1 || viv cgroup rm /$LAB"},
		},
		{
			ID: "engine", Title: Text{"How a container engine uses cgroups", "Docker 是如何使用 Cgroups 的"},
			About: Text{"A container's limit is a file of its control group.", "容器的限制就是它的 cgroup 里的一个文件。"},
			Steps: []Step{
				{Say: Text{"A container with 128 MB; its image is this machine", "限制为 128 MB 的容器（镜像就是本机）"}, Run: "viv run -d -m 128m --name $LAB --network none host sleep 1000", Without: "viv run -d --name $LAB --network none host sleep 1000"},
				{Say: Text{"The limit in its group", "cgroup 中的限制"}, Run: "viv cgroup get $LAB memory.max", Check: is("134217728")},
				{Say: Text{"The file that it stands in", "写在哪个文件里"}, Run: "viv cgroup get --format '{{.File}}' $LAB memory.max memory.current", Check: has("/sys/fs/cgroup", "/viv/")},
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
			Cleanup: []string{"[ -s end ] || kill -9 $(cat pid) 2>/dev/null || true", "! viv cgroup ls -q /$LAB >/dev/null 2>&1 || viv cgroup rm /$LAB"},
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

func unions() []Experiment {
	return []Experiment{
		{
			ID: "union", Title: Text{"A union of one's own: four image layers and a container layer", "自己动手写 AUFS：四个镜像层和一个容器层"},
			About: Text{"The layers of an image are only read. What is changed is copied into the layer of the container, and what is deleted is hidden there by a whiteout.",
				"镜像层只读。修改时文件先复制到容器层（写时复制），删除时在容器层留下 whiteout。"},
			Steps: []Step{
				{Say: Text{"Four layers with a file each, and one for the container", "四个镜像层各有一个文件，再加一个容器层"}, Run: "mkdir mnt container-layer; for i in 1 2 3 4; do mkdir image-layer$i; echo \"I am image layer $i\" >image-layer$i/image-layer$i.txt; done; ls"},
				{Say: Text{"Mount their union", "挂载"}, Run: "viv union mount -o dirs=./container-layer:./image-layer4:./image-layer3:./image-layer2:./image-layer1 none ./mnt",
					Without: "cp image-layer?/* mnt"},
				{Say: Text{"It shows all files", "所有文件都在"}, Run: "ls mnt", Check: has("image-layer1.txt", "image-layer2.txt", "image-layer3.txt", "image-layer4.txt")},
				{Say: Text{"Who may be written to", "各分支的权限"}, Run: "viv union ls --format '{{.Permissions}} {{.Branch}}' mnt", Without: "-", Check: has("rw ", "ro ")},
				{Say: Text{"Change a file of layer 4", "修改 image-layer4 的文件"}, Run: "echo 'write to mnt' >>mnt/image-layer4.txt; cat mnt/image-layer4.txt", Check: has("I am image layer 4", "write to mnt")},
				{Say: Text{"The image has it as it was", "镜像层没有变"}, Run: "cat image-layer4/image-layer4.txt", Check: is("I am image layer 4")},
				{Say: Text{"The container's layer has the whole file, changed", "容器层里有复制来的文件"}, Run: "cat container-layer/image-layer4.txt", Check: has("I am image layer 4", "write to mnt")},
				{Say: Text{"Delete one of layer 2: a whiteout hides it", "删除 image-layer2 的文件：whiteout"}, Run: "rm mnt/image-layer2.txt; ls -A container-layer image-layer2", Check: has(".wh.image-layer2.txt", "image-layer2.txt")},
			},
			Cleanup: []string{"! grep -q \" $(pwd)/mnt \" /proc/self/mountinfo || umount mnt"},
		},
		{
			ID: "image", Title: Text{"The layers of an image", "image layer：从 Dockerfile 到镜像层"},
			About: Text{"An image is a stack of layers. One that is built on another has that one's layers, which are on disk once, and its own changes on top.",
				"镜像由层叠成。在另一个镜像上构建的镜像共用它的层（磁盘上只有一份），再加上自己的改动。"},
			Steps: []Step{
				{Say: Text{"An image with one file", "只有一个文件的镜像"}, Run: "mkdir base && echo 'I am the base' >base/base.txt && printf 'FROM scratch\nCOPY base.txt /tmp/\nCMD [\"none\"]\n' >base/Dockerfile && viv build -q -t $LAB-base base"},
				{Say: Text{"Another that is built on it, with one more", "在它上面构建，多一个文件"}, Run: "mkdir changed && echo 'hello' >changed/newfile && printf \"FROM $LAB-base\\nCOPY newfile /tmp/\\n\" >changed/Dockerfile && viv build -q -t $LAB-changed changed",
					Without: "viv tag $LAB-base $LAB-changed"},
				{Say: Text{"What was done to make it", "查看执行的操作"}, Run: "viv history --format '{{.CreatedBy}}' $LAB-changed", Check: has("COPY newfile", "COPY base.txt")},
				{Say: Text{"The base has one layer", "基础镜像有一层"}, Run: "viv inspect -f '{{range .RootFS.Layers}}{{.}} {{end}}' $LAB-base", Save: "BASE", Check: has("sha256:")},
				{Say: Text{"The other has that, and one more", "另一个有同一层，再多一层"}, Run: "viv inspect -f '{{range .RootFS.Layers}}{{.}} {{end}}' $LAB-changed", Save: "CHANGED", Check: has("$BASE")},
				{Say: Text{"Its own layer on disk has only what it adds", "它自己的层在磁盘上只有新增的内容"}, Run: "ls $(viv info -f '{{.DockerRootDir}}')/layers/sha256/$(echo $CHANGED | cut -d' ' -f2 | cut -d: -f2)/fs/tmp", Check: is("newfile")},
				{Say: Text{"Layer by layer", "逐层查看"}, Run: "viv layer $LAB-changed", Check: has("newfile", "base.txt")},
			},
			Cleanup: []string{"for i in changed base; do ! viv image inspect $LAB-$i >/dev/null 2>&1 || viv rmi -f $LAB-$i; done"},
		},
		{
			ID: "init", Title: Text{"The init layer", "只读的 init layer"},
			About: Text{"Between the image and the layer of a container lies one more that is only read: it has what is needed to mount /dev, /proc, /etc/hosts and others on.",
				"镜像层和容器层之间还有一个只读的 init layer：为 /dev、/proc、/etc/hosts 等提供挂载点。"},
			Steps: []Step{
				{Say: Text{"An image with one file, and a container of it", "只有一个文件的镜像，和它的容器"}, Run: "mkdir base && echo x >base/file && printf 'FROM scratch\nCOPY file /\nCMD [\"none\"]\n' >base/Dockerfile && viv build -q -t $LAB base && viv create --name $LAB $LAB",
					Without: "viv create --name $LAB host true"},
				{Say: Text{"Below the container's layer lie the init layer and that of the image", "容器层下面是 init layer 和镜像层"}, Run: "viv inspect -f '{{.GraphDriver.Data.LowerDir}}' $LAB | tr : '\\n'", Check: has("init")},
				{Say: Text{"The init layer has places for mounts", "init layer 里是挂载点"}, Run: "ls $(viv inspect -f '{{.GraphDriver.Data.LowerDir}}' $LAB | cut -d: -f1)", Check: has("dev", "etc", "proc", "sys", "!file")},
				{Say: Text{"So the container's own layer is empty: nothing is changed yet", "所以容器自己的层是空的：还没有改动"}, Run: "viv diff $LAB; ls -A $(viv inspect -f '{{.GraphDriver.Data.UpperDir}}' $LAB)", Check: is("")},
			},
			Cleanup: []string{"! viv inspect --type container $LAB >/dev/null 2>&1 || viv rm -f $LAB", "! viv image inspect $LAB >/dev/null 2>&1 || viv rmi -f $LAB"},
		},
		{
			ID: "container", Title: Text{"The layer of a container", "container layer"},
			About: Text{"What a container writes is in a layer of its own; the image stays as it is.", "容器写的内容在自己的层里，镜像不变。"},
			Steps: []Step{
				{Say: Text{"A container that makes a file and deletes one; its image is this machine", "建一个文件、删一个文件的容器（镜像就是本机）"}, Run: "viv run --name $LAB --network none host sh -c 'echo new >/newfile; rm /etc/passwd'", Without: "viv run --name $LAB --network none host true"},
				{Say: Text{"What it changes", "它的改动"}, Run: "viv diff $LAB", Check: has("A /newfile", "D /etc/passwd")},
				{Say: Text{"Where that is on disk", "在磁盘上的位置"}, Run: "ls -A $(viv inspect -f '{{.GraphDriver.Data.UpperDir}}' $LAB)", Check: has("newfile")},
				{Say: Text{"What is deleted is a whiteout there: for overlay a device 0, 0, for AUFS a file .wh.passwd", "删除的文件在那里是 whiteout：overlay 用设备 0, 0，AUFS 用文件 .wh.passwd"}, Run: "ls -lA $(viv inspect -f '{{.GraphDriver.Data.UpperDir}}' $LAB)/etc", Check: whiteout},
				{Say: Text{"The machine has the one and not the other", "本机没有前者，仍有后者"}, Run: "ls /etc/passwd; [ ! -e /newfile ]"},
			},
			Cleanup: []string{"! viv inspect $LAB >/dev/null 2>&1 || viv rm -f $LAB"},
		},
	}
}
