package wire

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// driveProduce sends Produce requests of size with depth in flight and waits for
// the answers. It reports the CPU of the whole process, client included, so
// that two servers compare by difference.
func driveProduce(b *testing.B, addr string, size, depth int) {
	nc, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	defer nc.Close()
	request := frame(1, produce(-1, make([]byte, size)))
	var burst []byte
	for range depth {
		burst = append(burst, request...)
	}
	answers := make([]byte, 64<<10)
	answerSize := 0
	exchange := func(n int) {
		_, err := nc.Write(burst[:n*len(request)])
		require.NoError(b, err)
		if answerSize == 0 {
			_, err := io.ReadFull(nc, answers[:4])
			require.NoError(b, err)
			answerSize = 4 + int(binary.BigEndian.Uint32(answers))
			_, err = io.ReadFull(nc, answers[4:answerSize])
			require.NoError(b, err)
			return
		}
		_, err = io.ReadFull(nc, answers[:n*answerSize])
		require.NoError(b, err)
	}
	exchange(1)
	b.SetBytes(int64(len(request)))
	b.ReportAllocs()
	before := cpuTime(b)
	b.ResetTimer()
	for left := b.N; left > 0; {
		n := min(left, depth)
		exchange(n)
		left -= n
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// bareServer reads frames and answers each with the same bytes.
func bareServer(b *testing.B) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	b.Cleanup(func() { _ = ln.Close() })
	answer := produceAnswer().AppendTo(appendResponseHeader(nil, 1, keyProduce, true))
	binary.BigEndian.PutUint32(answer, uint32(len(answer)-4))
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				buf := make([]byte, 256<<10)
				for {
					if _, err := io.ReadFull(nc, buf[:4]); err != nil {
						return
					}
					if _, err := io.ReadFull(nc, buf[:binary.BigEndian.Uint32(buf)]); err != nil {
						return
					}
					if _, err := nc.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}

func wireServer(b *testing.B, h handlerFunc) string {
	return start(b, h, func(o *Options) { o.Logger = slog.New(slog.DiscardHandler) }).Addr("PLAINTEXT").String()
}

// BenchmarkProduce compares the whole way of a Produce request through wire
// with a loop that only reads and writes. Each pair runs side by side.
func BenchmarkProduce(b *testing.B) {
	inline := func(r *Request) { r.Reply(produceAnswer()) }
	later := func(r *Request) { go r.Reply(produceAnswer()) }
	for _, load := range []struct {
		name        string
		size, depth int
	}{{"16KiB/depth=1", 16 << 10, 1}, {"16KiB/depth=5", 16 << 10, 5}, {"192KiB/depth=2", 192 << 10, 2}} {
		b.Run("bare/"+load.name, func(b *testing.B) { driveProduce(b, bareServer(b), load.size, load.depth) })
		b.Run("inline/"+load.name, func(b *testing.B) { driveProduce(b, wireServer(b, inline), load.size, load.depth) })
		b.Run("later/"+load.name, func(b *testing.B) { driveProduce(b, wireServer(b, later), load.size, load.depth) })
	}
}

// BenchmarkSendFile compares an answer with a megabyte of a file with a loop of
// sendfile over the same bytes.
func BenchmarkSendFile(b *testing.B) {
	const fileSize, answerSize = 64 << 20, 1 << 20
	_, file := randomFile(b, fileSize)
	fetch := func(b *testing.B, addr string) {
		nc, err := net.Dial("tcp", addr)
		require.NoError(b, err)
		defer nc.Close()
		request := frame(1, heartbeat("fetch"))
		sink := make([]byte, 256<<10)
		b.SetBytes(answerSize)
		b.ReportAllocs()
		before := cpuTime(b)
		b.ResetTimer()
		for range b.N {
			_, err := nc.Write(request)
			require.NoError(b, err)
			_, err = io.ReadFull(nc, sink[:4])
			require.NoError(b, err)
			for left := int(binary.BigEndian.Uint32(sink)); left > 0; {
				n, err := nc.Read(sink[:min(left, len(sink))])
				require.NoError(b, err)
				left -= n
			}
		}
		b.StopTimer()
		b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
	}
	b.Run("bare", func(b *testing.B) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(b, err)
		defer ln.Close()
		go func() {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			raw, err := nc.(*net.TCPConn).SyscallConn()
			if err != nil {
				return
			}
			buf := make([]byte, 100)
			head := binary.BigEndian.AppendUint32(nil, answerSize)
			for i := 0; ; i++ {
				if _, err := nc.Read(buf); err != nil {
					return
				}
				if _, err := nc.Write(head); err != nil {
					return
				}
				off, left := int64(i%64)<<20, answerSize
				err := raw.Write(func(fd uintptr) bool {
					for left > 0 {
						n, err := unix.Sendfile(int(fd), int(file.Fd()), &off, left)
						if err != nil {
							return err != unix.EAGAIN
						}
						left -= n
					}
					return true
				})
				if err != nil {
					return
				}
			}
		}()
		fetch(b, ln.Addr().String())
	})
	i := 0
	h := func(r *Request) {
		i++
		r.ReplyRaw(&Payload{Sections: []Section{
			{Bytes: []byte("partition")}, {Range: FileRange{File: file, Off: int64(i%64) << 20, Len: answerSize}},
		}})
	}
	b.Run("wire", func(b *testing.B) { fetch(b, wireServer(b, h)) })
}

func BenchmarkNewTable(b *testing.B) {
	for b.Loop() {
		if _, err := parseLayouts(layoutText); err != nil {
			b.Fatal(err)
		}
		fullTable(b)
	}
}

func BenchmarkDecodeProduce(b *testing.B) {
	e := fullTable(b).entry(keyProduce)
	body := produce(-1, make([]byte, 16<<10)).AppendTo(nil)
	p := e.at(9)
	b.Run("guard", func(b *testing.B) {
		for b.Loop() {
			if _, err := p.walk(body, e.MaxElements); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("guard+kmsg", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, _, err := e.decode(p, 9, body); err != nil {
				b.Fatal(err)
			}
		}
	})
}
