// Command podman has containers/storage, what Podman, Buildah and CRI-O keep images in,
// pull the layers of the image in an OCI layout by their tables of contents, and make the
// archives of the layers again. It writes a line for each layer: its digest, and the
// digest of the archive that was made again.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/chunked"
	"go.podman.io/storage/pkg/reexec"
)

// source gives pieces of a blob, as a registry does.
type source struct {
	blob *os.File
}

func (s source) GetBlobAt(pieces []chunked.ImageSourceChunk) (chan io.ReadCloser, chan error, error) {
	streams := make(chan io.ReadCloser)
	errs := make(chan error)
	go func() {
		for _, piece := range pieces {
			section := io.NewSectionReader(s.blob, int64(piece.Offset), int64(piece.Length))
			streams <- io.NopCloser(section)
		}
		close(streams)
		close(errs)
	}()
	return streams, errs, nil
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func run(dir, root string) error {
	blob := func(blob digest.Digest) string {
		return filepath.Join(dir, ocispec.ImageBlobsDir, blob.Algorithm().String(), blob.Encoded())
	}
	var index ocispec.Index
	if err := read(filepath.Join(dir, ocispec.ImageIndexFile), &index); err != nil {
		return err
	}
	var manifest ocispec.Manifest
	if err := read(blob(index.Manifests[0].Digest), &manifest); err != nil {
		return err
	}
	store, err := storage.GetStore(storage.StoreOptions{
		RunRoot:         filepath.Join(root, "run"),
		GraphRoot:       filepath.Join(root, "graph"),
		GraphDriverName: "overlay",
		PullOptions:     map[string]string{"enable_partial_images": "true"},
	})
	if err != nil {
		return err
	}
	defer store.Shutdown(true)
	parent := ""
	for number, layer := range manifest.Layers {
		id := fmt.Sprintf("%064d", number+1)
		made, err := pull(store, id, parent, layer, blob(layer.Digest))
		if err != nil {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
		fmt.Println(layer.Digest, made)
		parent = id
	}
	return nil
}

// pull pulls a layer onto parent, and returns the digest of the archive that is made of it
// again.
func pull(store storage.Store, id, parent string, layer ocispec.Descriptor, path string) (digest.Digest, error) {
	blob, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer blob.Close()
	differ, err := chunked.NewDiffer(context.Background(), store, layer.Digest, layer.Size, layer.Annotations, source{blob})
	if err != nil {
		return "", err
	}
	defer differ.Close()
	options := &graphdriver.ApplyDiffWithDifferOpts{}
	staged, err := store.PrepareStagedLayer(options, differ)
	if err != nil {
		return "", err
	}
	_, err = store.ApplyStagedLayer(storage.ApplyStagedLayerOptions{
		ID: id, ParentLayer: parent, DiffOutput: staged, DiffOptions: options,
	})
	if err != nil {
		return "", err
	}
	uncompressed := archive.Uncompressed
	diff, err := store.Diff("", id, &storage.DiffOptions{Compression: &uncompressed})
	if err != nil {
		return "", err
	}
	defer diff.Close()
	return digest.FromReader(diff)
}

func main() {
	// The library runs itself to unpack.
	if reexec.Init() {
		return
	}
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: podman IMAGE ROOT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "podman:", err)
		os.Exit(1)
	}
}
