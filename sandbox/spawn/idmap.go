package spawn

import "syscall"

// writeMaps writes the maps of a child's user namespace from outside. Root may
// write any; anybody else only his own id, and of groups that after setgroups(2)
// has been given up in there (user_namespaces(7)). More ids are given by
// newuidmap(1) and newgidmap(1), out of /etc/subuid and /etc/subgid.
func writeMaps(pid int, uids, gids string) error {
	dir := "/proc/" + itoa(pid)
	err := writeFile(dir+"/uid_map", uids)
	if err == syscall.EPERM {
		err = mapByHelper("newuidmap", pid, uids)
	}
	if err != nil {
		return err
	}
	err = writeFile(dir+"/gid_map", gids)
	if err == syscall.EPERM && isOneID(gids) {
		if err := writeFile(dir+"/setgroups", "deny"); err != nil {
			return err
		}
		err = writeFile(dir+"/gid_map", gids)
	}
	if err == syscall.EPERM {
		err = mapByHelper("newgidmap", pid, gids)
	}
	return err
}

// isOneID says whether a map has one line with the size 1.
func isOneID(text string) bool {
	f := words(text)
	return len(f) == 3 && f[2] == "1"
}

// words splits at blanks and line ends.
func words(text string) (list []string) {
	start := 0
	for i := 0; i <= len(text); i++ {
		if i == len(text) || text[i] == ' ' || text[i] == '\n' {
			if i > start {
				list = append(list, text[start:i])
			}
			start = i + 1
		}
	}
	return list
}

// mapByHelper runs one of the two programs, which are setuid. What it has to say
// goes to our standard error. EPERM, if it refuses or is not there.
func mapByHelper(name string, pid int, text string) error {
	argv := append([]string{name, itoa(pid)}, words(text)...)
	for _, dir := range [...]string{"/usr/bin/", "/bin/", "/usr/sbin/", "/sbin/", "/usr/local/bin/"} {
		child, err := syscall.ForkExec(dir+name, argv, &syscall.ProcAttr{Env: []string{}, Files: []uintptr{0, 1, 2}})
		if err == syscall.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(child, &status, 0, nil); err != syscall.EINTR {
				break
			}
		}
		if !status.Exited() || status.ExitStatus() != 0 {
			return syscall.EPERM
		}
		return nil
	}
	return syscall.EPERM
}
