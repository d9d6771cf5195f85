package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A local content store keeps its blobs where an OCI layout does: blobs/<algorithm>/<hex>.

// labels keeps the labels of a content store in memory.
type labels struct {
	mu  sync.Mutex
	all map[digest.Digest]map[string]string
}

func (l *labels) Get(key digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.all[key]), nil
}

func (l *labels) Set(key digest.Digest, set map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[key] = maps.Clone(set)
	return nil
}

func (l *labels) Update(key digest.Digest, update map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	merged := maps.Clone(l.all[key])
	if merged == nil {
		merged = map[string]string{}
	}
	for name, value := range update {
		if value == "" {
			delete(merged, name)
		} else {
			merged[name] = value
		}
	}
	l.all[key] = merged
	return maps.Clone(merged), nil
}

func openStore(dir string) (content.Store, error) {
	return local.NewLabeledStore(dir, &labels{all: map[digest.Digest]map[string]string{}})
}

// readIndex returns the one image of a layout.
func readIndex(dir string) (ocispec.Descriptor, error) {
	var index ocispec.Index
	text, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("reading the index of %s: %w", dir, err)
	}
	if len(index.Manifests) != 1 {
		return ocispec.Descriptor{}, fmt.Errorf("%s has %d images; one is wanted", dir, len(index.Manifests))
	}
	return index.Manifests[0], nil
}

// linkBlobs gives the layout to the blobs of the layout from.
func linkBlobs(from, to string) error {
	base := filepath.Join(from, ocispec.ImageBlobsDir)
	return filepath.WalkDir(base, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, ocispec.ImageBlobsDir, path[len(base):])
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if err := os.Link(path, target); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// finish makes dir the layout of image alone: index, marker, and none of the blobs that
// the image does not name.
func finish(ctx context.Context, store content.Store, dir string, image ocispec.Descriptor) error {
	wanted := map[string]bool{}
	note := images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		wanted[desc.Digest.Encoded()] = true
		return images.Children(ctx, store, desc)
	})
	if err := images.Walk(ctx, note, image); err != nil {
		return err
	}
	base := filepath.Join(dir, ocispec.ImageBlobsDir, digest.Canonical.String())
	blobs, err := os.ReadDir(base)
	if err != nil {
		return err
	}
	for _, blob := range blobs {
		if !wanted[blob.Name()] {
			if err := os.Remove(filepath.Join(base, blob.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, "ingest")); err != nil {
		return err
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{image},
	}
	if err := writeJSON(filepath.Join(dir, ocispec.ImageIndexFile), index); err != nil {
		return err
	}
	marker := ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}
	return writeJSON(filepath.Join(dir, ocispec.ImageLayoutFile), marker)
}

func writeJSON(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}
