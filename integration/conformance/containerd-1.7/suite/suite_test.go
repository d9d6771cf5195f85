// Package suite runs the snapshotter suite of containerd 1.7 over the socket of
// a running plugin:
//
//	suite-1.7.test -address /run/plugin.sock -test.root
//
// It is a module of its own because containerd 1.7 and 2 disagree about the
// versions of what they share.
package suite

import (
	"context"
	"flag"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// "overlayfs" is also the name by which the suite knows what overlayfs cannot do
// (rename a directory of a lower layer).
const snapshotterName = "overlayfs"

var address = flag.String("address", os.Getenv("PONTOON_ADDRESS"), "unix socket of the plugin under test")

func TestSnapshotter(t *testing.T) {
	if *address == "" {
		t.Fatal("-address (or PONTOON_ADDRESS) must name the socket of the plugin under test")
	}
	testsuite.SnapshotterSuite(t, snapshotterName, func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
		conn, err := grpc.NewClient("unix://"+*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		client := snapshotsapi.NewSnapshotsClient(conn)
		return proxy.NewSnapshotter(client, snapshotterName), conn.Close, nil
	})
}
