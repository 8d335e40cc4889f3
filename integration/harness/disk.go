package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is an ext4 file system of a test's own, on a file, that can lose power and
// run full. It is unmounted when the test ends; whoever uses it must have ended
// by then.
type Disk struct {
	Dir string // where it is mounted

	t     testing.TB
	image string
}

// NewDisk makes and mounts a file system of so many bytes. It skips the test where
// it may not.
func NewDisk(t testing.TB, size int64) *Disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test mounts a file system of its own, and only root may: run it as root")
	}
	tmp := t.TempDir()
	d := &Disk{t: t, image: filepath.Join(tmp, "disk.img"), Dir: filepath.Join(tmp, "disk")}
	if err := os.Mkdir(d.Dir, 0o750); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-F", "-m", "0", d.image) // no blocks kept back for root
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

func (d *Disk) run(name string, args ...string) {
	d.t.Helper()
	// Not the test's own context: the last unmount comes after its end.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func (d *Disk) mount()   { d.t.Helper(); d.run("mount", "-o", "loop", d.image, d.Dir) }
func (d *Disk) unmount() { d.t.Helper(); d.run("umount", d.Dir) }

// Remount brings the file system back after a loss of power.
func (d *Disk) Remount() {
	d.t.Helper()
	d.unmount()
	if d.held() {
		// The file system lives on without power, and would come back as it is. A copy
		// of what the disk has is another one.
		copied := d.image + "+"
		d.run("cp", "--sparse=always", d.image, copied)
		d.image = copied
	}
	d.mount()
}

// held tells whether something still has the file system mounted: whoever unshared
// his mounts from this machine's meanwhile has it with them.
func (d *Disk) held() bool {
	d.t.Helper()
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, file := range loops {
		if backing, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(backing)) == d.image { // it may be gone by now
			return true
		}
	}
	return false
}

// The kernel's EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32), and its flag
// EXT4_GOING_FLAGS_NOLOGFLUSH: neither data nor journal is flushed
// (fs/ext4/ext4.h).
const (
	ext4Shutdown   = 0x8004587d
	ext4NoLogFlush = 2
)

// LosePower makes the file system drop what was not synced: from now on every write
// fails, and nothing in memory reaches the disk. The processes that write to it stand
// still meanwhile: the kernel may tell a sync that is under way at that moment of
// success, though its journal is gone, and no loss of power lets that be told on.
func (d *Disk) LosePower(pids ...int) {
	d.t.Helper()
	for _, pid := range pids {
		d.halt(pid)
	}
	f, err := os.Open(d.Dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, ext4NoLogFlush); err != nil {
		d.t.Fatalf("shut the file system down: %v", err)
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
			d.t.Fatalf("let process %d go on: %v", pid, err)
		}
	}
}

// halt stops a process, and returns when none of its threads is in the kernel.
func (d *Disk) halt(pid int) {
	d.t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		d.t.Fatalf("stop process %d: %v", pid, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			d.t.Fatal(err)
		}
		moving := ""
		for _, path := range stats {
			stat, err := os.ReadFile(path)
			// PID (NAME) STATE …, proc_pid_stat(5); a thread may be gone by now.
			if i := strings.LastIndexByte(string(stat), ')'); err == nil && (i < 0 || !strings.HasPrefix(string(stat[i:]), ") T")) {
				moving = string(stat)
			}
		}
		if moving == "" && len(stats) > 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("process %d does not stand still: %s", pid, moving)
		}
		time.Sleep(time.Millisecond)
	}
}

// Fill takes the free space but for some bytes, until the returned function gives
// it back.
func (d *Disk) Fill(leave int64) (release func()) {
	d.t.Helper()
	f, err := os.CreateTemp(d.Dir, "ballast-")
	if errors.Is(err, unix.ENOSPC) {
		return func() {} // not even a name fits
	}
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(d.Dir, &st); err != nil {
		d.t.Fatal(err)
	}
	if leave > 0 {
		if n := int64(st.Bavail)*st.Bsize - leave; n > 0 {
			if err := unix.Fallocate(int(f.Fd()), 0, 0, n); err != nil && !errors.Is(err, unix.ENOSPC) {
				d.t.Fatalf("fill the disk: %v", err)
			}
		}
	} else { // the last blocks may be no multiple of what fallocate takes
		block := make([]byte, 4096)
		for err == nil {
			_, err = f.Write(block)
		}
		if !errors.Is(err, unix.ENOSPC) {
			d.t.Fatalf("fill the disk: %v", err)
		}
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			d.t.Errorf("give the disk its space back: %v", err)
		}
	}
}
