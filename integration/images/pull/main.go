// Command pull pulls an image the ways in which containerd 1.7 tells a snapshotter of
// each layer's source: as a client that adds the labels (what Docker and nerdctl do), or
// through the CRI (what a kubelet does). `ctr images pull` of 1.7 does neither.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/pkg/snapshotters"
	"github.com/containerd/containerd/remotes/docker"
	"github.com/containerd/containerd/remotes/docker/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type request struct {
	address     string
	namespace   string
	snapshotter string
	hosts       string
	user        string
	password    string
	reference   string
}

// client pulls through containerd's client library.
func (r *request) client(ctx context.Context) error {
	client, err := containerd.New(r.address)
	if err != nil {
		return fmt.Errorf("connecting to containerd: %w", err)
	}
	defer client.Close()
	options := config.HostOptions{}
	if r.hosts != "" {
		options.HostDir = config.HostDirFromRoot(r.hosts)
	}
	if r.user != "" {
		options.Credentials = func(string) (string, string, error) {
			return r.user, r.password, nil
		}
	}
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: config.ConfigureHosts(ctx, options)})
	_, err = client.Pull(namespaces.WithNamespace(ctx, r.namespace), r.reference,
		containerd.WithResolver(resolver),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(r.snapshotter),
		containerd.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(r.reference)),
	)
	return err
}

// cri asks the image service at the address to pull.
func (r *request) cri(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+r.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to the image service: %w", err)
	}
	defer conn.Close()
	pull := &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: r.reference}}
	if r.user != "" {
		pull.Auth = &runtime.AuthConfig{Username: r.user, Password: r.password}
	}
	answer, err := runtime.NewImageServiceClient(conn).PullImage(ctx, pull)
	if err != nil {
		return err
	}
	fmt.Println(answer.ImageRef)
	return nil
}

func run(arguments []string) error {
	var r request
	var viaCRI bool
	var credentials string
	flags := flag.NewFlagSet("pull", flag.ContinueOnError)
	flags.BoolVar(&viaCRI, "cri", false, "ask a CRI image service, not containerd")
	flags.StringVar(&r.address, "address", "", "`socket` of containerd or of the image service")
	flags.StringVar(&r.namespace, "namespace", "default", "containerd `namespace` (the CRI has its own)")
	flags.StringVar(&r.snapshotter, "snapshotter", "", "`name` of the snapshotter (the CRI has its own)")
	flags.StringVar(&r.hosts, "hosts-dir", "", "`directory` of hosts.toml files (the CRI has its own)")
	flags.StringVar(&credentials, "user", "", "`name:password`")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() != 1 || r.address == "" {
		return errors.New("usage: pull [-cri] -address SOCKET [OPTION...] REFERENCE")
	}
	r.user, r.password, _ = strings.Cut(credentials, ":")
	r.reference = flags.Arg(0)
	if viaCRI {
		return r.cri(context.Background())
	}
	return r.client(context.Background())
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}
