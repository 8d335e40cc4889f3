package main

import (
	"github.com/spf13/cobra"

	"github.com/firnlog/firn/integration/probe"
)

// serveProduce is the bare server under a broker's figure of taking in.
func serveProduce(out *output) *cobra.Command {
	var o probe.ProduceServerOptions
	cmd := &cobra.Command{
		Use:   "serve-produce",
		Short: "Serve Kafka Produce v9 to v13: read, check the CRC, write a file per partition, answer",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			srv, err := probe.StartProduceServer(o)
			if err != nil {
				return err
			}
			if err := out.serving(cmd.OutOrStdout(), srv.Addr()); err != nil {
				return err
			}
			return untilDone(cmd.Context(), srv.Close)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Addr, "addr", "127.0.0.1:0", "address to listen on")
	f.StringVar(&o.Dir, "dir", "", "directory of the partitions' files, which are overwritten")
	f.BoolVar(&o.Sync, "sync", false, "fdatasync before each answer, instead of the page cache alone")
	must(cmd.MarkFlagRequired("dir"))
	return cmd
}

// serveFile is the bare server under a broker's figure of serving hot data.
func serveFile(out *output) *cobra.Command {
	var addr string
	var paths []string
	cmd := &cobra.Command{
		Use:   "serve-file",
		Short: "Send files by sendfile to everyone who connects",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			srv, err := probe.StartFileServer(addr, paths...)
			if err != nil {
				return err
			}
			if err := out.serving(cmd.OutOrStdout(), srv.Addr()); err != nil {
				return err
			}
			return untilDone(cmd.Context(), srv.Close)
		},
	}
	f := cmd.Flags()
	f.StringVar(&addr, "addr", "127.0.0.1:0", "address to listen on")
	f.StringArrayVar(&paths, "file", nil, "file to send; repeatable")
	must(cmd.MarkFlagRequired("file"))
	return cmd
}

// drain reads from serve-file.
func drain(out *output) *cobra.Command {
	var (
		addr                     string
		connections, passes, pid int
	)
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Read everything that serve-file sends",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			meter, err := probe.StartMeter(pid)
			if err != nil {
				return err
			}
			bytes, err := probe.Drain(cmd.Context(), addr, connections, passes)
			if err != nil {
				return err
			}
			usage, err := meter.Stop()
			if err != nil {
				return err
			}
			return out.report(cmd.OutOrStdout(), probe.NewReport("sendfile", bytes, int64(connections*passes), connections, usage, pid))
		},
	}
	f := cmd.Flags()
	f.StringVar(&addr, "addr", "", "address of serve-file")
	f.IntVar(&connections, "connections", 1, "connections at the same time")
	f.IntVar(&passes, "passes", 1, "times that each reads the file")
	f.IntVar(&pid, "pid", 0, "process whose CPU time to report: the server's")
	must(cmd.MarkFlagRequired("addr"))
	return cmd
}

// get reads objects: the bare figure under catch-up reads.
func get(out *output) *cobra.Command {
	var (
		o          probe.ObjectOptions
		limit, rng sizeFlag
		pid        int
	)
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Read objects of an S3 store by parallel GETs and drop the bytes",
		Long:  "Read objects of an S3 store by parallel GETs and drop the bytes. The access key comes from AWS_ACCESS_KEY_ID and\nAWS_SECRET_ACCESS_KEY, or from MINIO_ROOT_USER and MINIO_ROOT_PASSWORD.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.MaxBytes, o.RangeBytes = int64(limit), int64(rng)
			meter, err := probe.StartMeter(pid)
			if err != nil {
				return err
			}
			res, err := probe.GetObjects(cmd.Context(), o)
			if err != nil {
				return err
			}
			usage, err := meter.Stop()
			if err != nil {
				return err
			}
			return out.report(cmd.OutOrStdout(), probe.NewReport("get", res.Bytes, res.Requests, o.Parallel, usage, pid))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Endpoint, "endpoint", "", "host:port of the store")
	f.BoolVar(&o.TLS, "tls", false, "speak TLS")
	f.StringVar(&o.Region, "region", "", "region, asked from the store if empty")
	f.StringVar(&o.Bucket, "bucket", "", "bucket")
	f.StringVar(&o.Prefix, "prefix", "", "read objects below this prefix alone")
	f.IntVar(&o.Parallel, "parallel", 16, "requests at the same time")
	f.Var(&rng, "range-bytes", "bytes of a ranged GET; 0 reads each object by one request")
	f.Var(&limit, "bytes", "end after so many bytes; 0 reads all objects once")
	f.IntVar(&pid, "pid", 0, "process whose CPU time to report beside our own: the store's")
	must(cmd.MarkFlagRequired("endpoint"))
	must(cmd.MarkFlagRequired("bucket"))
	return cmd
}

// must stops on a mistake in the definition of a flag.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
