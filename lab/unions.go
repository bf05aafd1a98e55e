package lab

// unmount ends the union of an experiment.
const unmount = "! grep -q \" $(pwd)/mnt \" /proc/self/mountinfo || umount mnt"

func unions() []Experiment {
	return []Experiment{
		{
			ID: "cow", Title: Text{"What a union file system is: copy-on-write", "什么是 Union File System：写时复制（CoW）"},
			About: Text{"File systems are laid over one another, and look like one. Only the uppermost is written to: a file of one below is copied up by the first write to it. AUFS is no part of Linux itself: viv-union gives its semantics through FUSE.",
				"多个文件系统叠加成一个。只有最上层可写：下层的文件在第一次写时复制上来。AUFS 不在 Linux 内核源码中，由 viv-union 通过 FUSE 实现同样的语义。"},
			Steps: []Step{
				{Say: Text{"Two directories, with a file of 256 KB in the lower one", "两个目录，下层有一个 256 KB 的文件"}, Run: "mkdir lower upper mnt && dd if=/dev/zero of=lower/file bs=4096 count=64 2>/dev/null && chmod 600 lower/file && md5sum <lower/file", Save: "SUM"},
				{Say: Text{"Their union", "叠加挂载"}, Run: "viv union mount -o dirs=./upper:./lower none ./mnt", Without: "mount --bind lower mnt"},
				{Say: Text{"Reading copies nothing", "读不会复制"}, Run: "md5sum <mnt/file; ls upper", Check: is("$SUM")},
				{Say: Text{"One byte is written", "写一个字节"}, Run: "printf x >>mnt/file; ls -l mnt/file | awk '{print $5}'", Check: is("262145")},
				{Say: Text{"The whole file is in the upper directory now, with its mode", "现在上层有整个文件，权限不变"}, Run: "ls -l upper/file | awk '{print $1, $5}'", Check: has("-rw-------", "262145")},
				{Say: Text{"The lower one is as it was", "下层没有变"}, Run: "md5sum <lower/file", Check: is("$SUM")},
			},
			Cleanup: []string{unmount},
		},
		{
			ID: "image", OwnStore: true, Title: Text{"The layers of an image", "image layer：从 Dockerfile 到镜像层"},
			About: Text{"An image is a stack of layers. One that is built on another has that one's layers, which are on disk once, and its own changes on top.",
				"镜像由层叠成。在另一个镜像上构建的镜像共用它的层（磁盘上只有一份），再加上自己的改动。"},
			Steps: []Step{
				{Say: Text{"An image with one file", "只有一个文件的镜像"}, Run: "mkdir base && echo 'I am the base' >base/base.txt && printf 'FROM scratch\\nCOPY base.txt /tmp/\\nCMD [\"none\"]\\n' >base/Dockerfile && viv build -q -t $LAB-base base"},
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
			ID: "init", OwnStore: true, Title: Text{"The init layer", "只读的 init layer"},
			About: Text{"Between the image and the layer of a container lies one more that is only read: it has what is needed to mount /dev, /proc, /etc/hosts and others on.",
				"镜像层和容器层之间还有一个只读的 init layer：为 /dev、/proc、/etc/hosts 等提供挂载点。"},
			Steps: []Step{
				{Say: Text{"An image with one file, and a container of it", "只有一个文件的镜像，和它的容器"}, Run: "mkdir base && echo x >base/file && printf 'FROM scratch\\nCOPY file /\\nCMD [\"none\"]\\n' >base/Dockerfile && viv build -q -t $LAB base && viv create --name $LAB $LAB",
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
		{
			ID: "union", Title: Text{"A union of one's own: four image layers and a container layer", "自己动手写 AUFS：四个镜像层和一个容器层"},
			About: Text{"The layers of an image are only read. What is changed is copied into the layer of the container, and what is deleted is hidden there by a whiteout. By hand it would be mount -t aufs, where a kernel has that; viv union mount takes the same options.",
				"镜像层只读。修改时文件先复制到容器层（写时复制），删除时在容器层留下 whiteout。有 AUFS 的内核上手工命令是 mount -t aufs；viv union mount 的选项相同。"},
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
			Cleanup: []string{unmount},
		},
	}
}
