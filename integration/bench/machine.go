package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where the figures were taken.
type Machine struct {
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	MemoryGB float64 `json:"memory_gb"`
	Kernel   string  `json:"kernel"`
	Go       string  `json:"go"`
	// Load is the load average of the last minute before the run: what else
	// the machine was doing.
	Load float64 `json:"load"`
}

// ThisMachine looks at /proc. What it cannot tell stays empty.
func ThisMachine() Machine {
	m := Machine{Cores: runtime.NumCPU(), Go: runtime.Version()}
	m.CPU = procField("/proc/cpuinfo", "model name")
	if kb, _, ok := strings.Cut(procField("/proc/meminfo", "MemTotal"), " "); ok {
		if n, err := strconv.ParseFloat(kb, 64); err == nil {
			m.MemoryGB = n * 1024 / 1e9
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		first, _, _ := strings.Cut(string(b), " ")
		if load, err := strconv.ParseFloat(first, 64); err == nil {
			m.Load = load
		}
	}
	return m
}

// String is one line.
func (m Machine) String() string {
	return fmt.Sprintf("%d × %s, %.0f GB, Linux %s, %s, load %.1f", m.Cores, m.CPU, m.MemoryGB, m.Kernel, m.Go, m.Load)
}

// procField returns the value of the first line "name: value" of a file.
func procField(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		key, value, ok := strings.Cut(string(line), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// memory returns the resident memory of a process in bytes: all of it, and what
// is its own, without mapped files such as the program itself.
func memory(pid int) (all, own int64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	read := func(name string) int64 {
		kib, _, ok := strings.Cut(procField(path, name), " ")
		n, perr := strconv.ParseInt(kib, 10, 64)
		if !ok || perr != nil {
			err = fmt.Errorf("bench: no %s in %s", name, path)
		}
		return n << 10
	}
	return read("VmRSS"), read("RssAnon"), err
}

// freeDisk returns the bytes that are free where dir lies.
func freeDisk(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("bench: free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
