// Package initproc is the init of a container that was started with --init: the
// first process of its PID namespace. It starts the command, passes every signal
// on to it, reaps the orphans that the kernel gives to the first process, and
// ends as the command ends. Its behaviour is tini's, which Docker uses for this.
//
// It is part of viv-monitor, so that an engine brings its own init without one
// more binary. It links nothing beyond the language and syscall: not package
// os/signal, whose two functions of the runtime it calls itself.
package initproc

import "syscall"

// Main runs the command that stands in args after the program's own name, and a
// "--" if there is one. It never returns: it exits with the command's status,
// with 128 and the number of the signal that ended the command, or, when the
// command cannot be started, with 127 (not found), 126 (not executable) or 1.
func Main(args []string) {
	command := args[1:]
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		complain("usage: docker-init [--] PROGRAM [ARGS]")
		syscall.Exit(1)
	}
	// Before the command is there: what comes meanwhile waits until it is.
	catchSignals()
	sayReady()
	pid, err := start(command)
	if err != nil {
		complain("exec " + command[0] + " failed: " + err.Error())
		syscall.Exit(startStatus(err))
	}
	go forward(pid)
	syscall.Exit(reap(pid))
}

// executable is X_OK of access(2).
const executable = 1

// start runs the command in a process group of its own, in the foreground of the
// terminal if standard input is one, so that the terminal's keys (^C) reach the
// command and what it starts, and not the init a second time.
func start(command []string) (pid int, err error) {
	attr := &syscall.ProcAttr{
		Env:   syscall.Environ(),
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setpgid: true, Foreground: isTerminal(0), Ctty: 0},
	}
	err = syscall.ENOENT
	denied := false
	for _, path := range candidates(command[0], attr.Env) {
		// Looked at first, because each attempt costs a process.
		if err = syscall.Access(path, executable); err == nil {
			pid, err = syscall.ForkExec(path, command, attr)
		}
		switch err {
		case nil:
			return pid, nil
		case syscall.ENOEXEC:
			// A script that does not say for whom: execvp(3) gives it to the shell.
			return syscall.ForkExec("/bin/sh", append([]string{"/bin/sh", path}, command[1:]...), attr)
		case syscall.ENOENT, syscall.ENOTDIR:
		case syscall.EACCES:
			denied = true
		default:
			return 0, err
		}
	}
	if denied {
		err = syscall.EACCES
	}
	return 0, err
}

// candidates lists the paths that a name may mean, as execvp(3) tries them.
func candidates(name string, env []string) []string {
	for i := range len(name) {
		if name[i] == '/' {
			return []string{name}
		}
	}
	if name == "" {
		return nil
	}
	search := "/bin:/usr/bin"
	for _, e := range env {
		if len(e) >= 5 && e[:5] == "PATH=" {
			search = e[5:]
			break
		}
	}
	var out []string
	for len(search) > 0 || out == nil {
		end := 0
		for end < len(search) && search[end] != ':' {
			end++
		}
		dir := search[:end]
		if dir == "" {
			dir = "."
		}
		out = append(out, dir+"/"+name)
		if end == len(search) {
			break
		}
		if search = search[end+1:]; search == "" { // a colon at the end: the working directory
			out = append(out, "./"+name)
		}
	}
	return out
}

func startStatus(err error) int {
	switch err {
	case syscall.ENOENT, syscall.ENOTDIR:
		return 127
	case syscall.EACCES:
		return 126
	}
	return 1
}

// reap collects every process that ends, until the command does. It returns the
// status to exit with; the kernel kills what is left when the init exits.
func reap(command int) int {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			// ECHILD is impossible while the command is not reaped.
			complain("wait failed: " + err.Error())
			return 1
		case pid == command && ws.Exited():
			return ws.ExitStatus()
		case pid == command && ws.Signaled():
			return 128 + int(ws.Signal())
		}
	}
}

// complain writes one line to standard error.
func complain(msg string) {
	syscall.Write(2, []byte("[FATAL docker-init] "+msg+"\n"))
}
