package main

import "syscall"

// childAttributes puts a child into a process group of its own, and asks the
// kernel to stop it should this process die. The death signal belongs to the
// thread that starts the child: whoever calls this keeps its thread until the
// child is gone (runtime.LockOSThread).
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
