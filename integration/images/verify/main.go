// Command verify has stargz-snapshotter's library open every layer of the image in an OCI
// layout, verify its table of contents, and read every chunk of every file. It prints a line for each
// layer: its digest, how many chunks, and the files before the landmark in the order of the blob, the
// landmark behind them ("-" if there is no landmark).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func verify(dir string) error {
	var index ocispec.Index
	if err := read(filepath.Join(dir, ocispec.ImageIndexFile), &index); err != nil {
		return err
	}
	if len(index.Manifests) != 1 {
		return fmt.Errorf("%s has %d images; one is wanted", dir, len(index.Manifests))
	}
	var manifest ocispec.Manifest
	if err := read(blobPath(dir, index.Manifests[0].Digest), &manifest); err != nil {
		return err
	}
	for _, layer := range manifest.Layers {
		chunks, first, err := verifyLayer(dir, layer)
		if err != nil {
			return fmt.Errorf("layer %s: %w", layer.Digest, err)
		}
		fmt.Println(layer.Digest, chunks, first)
	}
	return nil
}

func read(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func blobPath(dir string, blob digest.Digest) string {
	return filepath.Join(dir, ocispec.ImageBlobsDir, blob.Algorithm().String(), blob.Encoded())
}

func verifyLayer(dir string, layer ocispec.Descriptor) (int, string, error) {
	blob, err := os.Open(blobPath(dir, layer.Digest))
	if err != nil {
		return 0, "", err
	}
	defer blob.Close()
	reader, err := estargz.Open(io.NewSectionReader(blob, 0, layer.Size),
		estargz.WithDecompressors(new(zstdchunked.Decompressor)))
	if err != nil {
		return 0, "", err
	}
	expected := digest.Digest(layer.Annotations[estargz.TOCJSONDigestAnnotation])
	verifier, err := reader.VerifyTOC(expected)
	if err != nil {
		return 0, "", err
	}
	root, ok := reader.Lookup("")
	if !ok {
		return 0, "", errors.New("there is no root")
	}
	chunks, err := verifyTree(reader, verifier, root)
	return chunks, first(reader, root), err
}

// first names what the snapshotter fetches at once: all that is in the blob before the landmark.
func first(reader *estargz.Reader, root *estargz.TOCEntry) string {
	landmark, ok := reader.Lookup(estargz.PrefetchLandmark)
	if !ok {
		if landmark, ok = reader.Lookup(estargz.NoPrefetchLandmark); !ok {
			return "-"
		}
	}
	var before []*estargz.TOCEntry
	var collect func(entry *estargz.TOCEntry)
	collect = func(entry *estargz.TOCEntry) {
		if entry.Type == "reg" && entry.Size > 0 && entry.Offset <= landmark.Offset {
			before = append(before, entry)
		}
		entry.ForeachChild(func(_ string, child *estargz.TOCEntry) bool {
			collect(child)
			return true
		})
	}
	collect(root)
	sort.Slice(before, func(i, j int) bool { return before[i].Offset < before[j].Offset })
	var names []string
	for _, entry := range before {
		// Another name of a file is the same entry.
		if len(names) == 0 || names[len(names)-1] != entry.Name {
			names = append(names, entry.Name)
		}
	}
	return strings.Join(names, ",")
}

func verifyTree(reader *estargz.Reader, verifier estargz.TOCEntryVerifier, entry *estargz.TOCEntry) (int, error) {
	if entry.Type == "reg" {
		// The library knows the chunks of a file by its first name only.
		return verifyFile(reader, verifier, entry.Name, entry.Size)
	}
	chunks := 0
	var failed error
	entry.ForeachChild(func(_ string, child *estargz.TOCEntry) bool {
		count, err := verifyTree(reader, verifier, child)
		chunks += count
		failed = err
		return err == nil
	})
	return chunks, failed
}

func verifyFile(reader *estargz.Reader, verifier estargz.TOCEntryVerifier, path string, size int64) (int, error) {
	file, err := reader.OpenFile(path)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	chunks := 0
	for offset := int64(0); offset < size; {
		chunk, ok := reader.ChunkEntryForOffset(path, offset)
		if !ok {
			return 0, fmt.Errorf("%s has no chunk at %d", path, offset)
		}
		check, err := verifier.Verifier(chunk)
		if err != nil {
			return 0, fmt.Errorf("%s at %d: %w", path, offset, err)
		}
		// All at once: a read in the middle of a chunk decompresses it from its beginning.
		data := make([]byte, chunk.ChunkSize)
		if _, err := file.ReadAt(data, offset); err != nil && err != io.EOF {
			return 0, fmt.Errorf("%s at %d: %w", path, offset, err)
		}
		if _, err := check.Write(data); err != nil {
			return 0, fmt.Errorf("%s at %d: %w", path, offset, err)
		}
		if !check.Verified() {
			return 0, fmt.Errorf("%s at %d has another digest", path, offset)
		}
		offset += chunk.ChunkSize
		chunks++
	}
	return chunks, nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: verify IMAGE")
		os.Exit(2)
	}
	if err := verify(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "verify:", err)
		os.Exit(1)
	}
}
