// Command stargz is stargz-snapshotter's own file system and snapshotter behind the
// snapshots service: what lazily loading plugins are compared with, and what tests of
// them are tested on. Its program cannot be installed by a Go client; its packages can.
//
// It takes the arguments that our plugins take; its configuration is stargz-snapshotter's
// as JSON, and may be empty. It knows no users.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"

	"github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/log"
	"github.com/containerd/stargz-snapshotter/service"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

func run() error {
	root := flag.String("root", "", "root `directory`")
	address := flag.String("address", "", "`socket`")
	config := flag.String("config", "", "configuration `file`")
	level := flag.String("log-level", "info", "log `level`")
	flag.Parse()
	if err := log.SetLevel(*level); err != nil {
		return err
	}
	var settings service.Config
	text, err := os.ReadFile(*config)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(text)) > 0 {
		if err := json.Unmarshal(text, &settings); err != nil {
			return fmt.Errorf("reading %s: %w", *config, err)
		}
	}
	// Its program's default.
	settings.Config.DirectoryCacheConfig.Direct = true
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	snapshotter, err := service.NewStargzSnapshotterService(ctx, *root, &settings)
	if err != nil {
		return err
	}
	// One of a run that was killed.
	if err := os.Remove(*address); err != nil && !os.IsNotExist(err) {
		return err
	}
	listener, err := net.Listen("unix", *address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	snapshots.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		return err
	}
	return snapshotter.Close()
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "stargz:", err)
		os.Exit(1)
	}
}
