// Package suite runs containerd's own snapshotter suite over the socket of a
// running plugin:
//
//	suite.test -address /run/plugin.sock -test.root
package suite

import (
	"context"
	"flag"
	"os"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
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
