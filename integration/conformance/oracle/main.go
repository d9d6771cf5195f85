// Command oracle serves containerd's own overlayfs snapshotter, and nothing
// else, over the snapshots gRPC service on a unix socket. It is what Pontoon is
// compared with: the oracle of the conformance cases and the rival of the
// metadata benchmarks.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"google.golang.org/grpc"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "oracle:", err)
		os.Exit(1)
	}
}

func run() error {
	root := flag.String("root", "", "directory of the snapshotter")
	address := flag.String("address", "", "unix socket to serve on")
	syncRemove := flag.Bool("sync-remove", false, "delete directories in Remove, not in Cleanup")
	upperdirLabel := flag.Bool("upperdir-label", false, "label snapshots with their upperdir")
	remapIDs := flag.Bool("remap-ids", true, "honour the uid and gid mapping labels where the kernel can")
	slowChown := flag.Bool("slow-chown", false, "chown instead of mapping where the kernel cannot")
	mountOptions := flag.String("mount-options", "", "overlay mount options, separated by commas")
	flag.String("config", "", "ignored: stands in for a plugin's flag of this name")
	flag.String("log-level", "", "ignored: stands in for a plugin's flag of this name")
	flag.Parse()
	if *root == "" || *address == "" {
		return fmt.Errorf("--root and --address are needed")
	}

	var opts []overlay.Opt
	if !*syncRemove {
		opts = append(opts, overlay.AsynchronousRemove)
	}
	if *upperdirLabel {
		opts = append(opts, overlay.WithUpperdirLabel)
	}
	if *remapIDs {
		opts = append(opts, overlay.WithRemapIDs)
	}
	if *slowChown {
		opts = append(opts, overlay.WithSlowChown)
	}
	if *mountOptions != "" {
		opts = append(opts, overlay.WithMountOptions(strings.Split(*mountOptions, ",")))
	}
	// The daemon's umask must not reach the roots of snapshots.
	syscall.Umask(0)
	sn, err := overlay.NewSnapshotter(*root, opts...)
	if err != nil {
		return err
	}
	defer sn.Close()

	if err := os.Remove(*address); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", *address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		server.GracefulStop()
	}()
	return server.Serve(listener)
}
