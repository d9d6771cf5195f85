package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/platforms"
	"github.com/containerd/stargz-snapshotter/estargz"
	esgz "github.com/containerd/stargz-snapshotter/nativeconverter/estargz"
	"github.com/containerd/stargz-snapshotter/nativeconverter/estargz/externaltoc"
	"github.com/containerd/stargz-snapshotter/nativeconverter/zstdchunked"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// request is one conversion.
type request struct {
	format       string
	chunkSize    int
	minChunkSize int
	prefetch     []string
	toc          string
}

// finalize makes the image that holds the external tables of contents.
type finalize func(context.Context, content.Store, string, *ocispec.Descriptor) (*images.Image, error)

func (r *request) options() []estargz.Option {
	return []estargz.Option{
		estargz.WithChunkSize(r.chunkSize),
		estargz.WithMinChunkSize(r.minChunkSize),
	}
}

// prioritizing converts a layer with the prefetched files first, and one that has none of
// them as if there were no list: it gets the landmark that says so.
func (r *request) prioritizing(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
	var missed []string
	options := append(r.options(),
		estargz.WithPrioritizedFiles(r.prefetch),
		estargz.WithAllowPrioritizeNotFound(&missed))
	converted, err := esgz.LayerConvertFunc(options...)(ctx, cs, desc)
	if err == nil && len(missed) == len(r.prefetch) {
		return esgz.LayerConvertFunc(r.options()...)(ctx, cs, desc)
	}
	return converted, err
}

func (r *request) layers() (converter.ConvertFunc, finalize, error) {
	switch r.format {
	case "estargz":
		if len(r.prefetch) > 0 {
			return r.prioritizing, nil, nil
		}
		// Options are kept by the converter, and layers run side by side: each gets its own.
		return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
			return esgz.LayerConvertFunc(r.options()...)(ctx, cs, desc)
		}, nil, nil
	case "stargz":
		return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
			options := append(r.options(), estargz.WithCompression(newOldFooter()))
			return esgz.LayerConvertFunc(options...)(ctx, cs, desc)
		}, nil, nil
	case "zstd-chunked":
		return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
			return zstdchunked.LayerConvertFunc(r.options()...)(ctx, cs, desc)
		}, nil, nil
	case "external-toc":
		convert, last := externaltoc.LayerConvertFunc(r.options(), gzip.BestCompression)
		return convert, last, nil
	case "external-toc-lossless":
		convert, last := externaltoc.LayerConvertLossLessFunc(externaltoc.LayerConvertLossLessConfig{
			CompressionLevel: gzip.BestCompression,
			ChunkSize:        r.chunkSize,
			MinChunkSize:     r.minChunkSize,
		})
		return convert, last, nil
	}
	return nil, nil, fmt.Errorf("no format is called %q; see the usage", r.format)
}

// convert writes the image of the layout from, converted, to the layout to.
func (r *request) convert(ctx context.Context, from, to string) error {
	convertLayer, last, err := r.layers()
	if err != nil {
		return err
	}
	if len(r.prefetch) > 0 && r.format != "estargz" {
		return errors.New("-prefetch belongs to the format estargz")
	}
	if (last != nil) != (r.toc != "") {
		return errors.New("-toc belongs to the formats external-toc and external-toc-lossless, which need it")
	}
	image, err := readIndex(from)
	if err != nil {
		return err
	}
	if err := linkBlobs(from, to); err != nil {
		return err
	}
	store, err := openStore(to)
	if err != nil {
		return err
	}
	if last != nil {
		// It keeps what it learns of each layer in a map without a lock.
		convertLayer = oneByOne(convertLayer)
	}
	converted, err := converter.DefaultIndexConvertFunc(convertLayer, true, platforms.All)(ctx, store, image)
	if err != nil {
		return fmt.Errorf("converting %s: %w", from, err)
	}
	if converted == nil {
		return fmt.Errorf("converting %s changed nothing", from)
	}
	if last != nil {
		// The name only decides the name of the other image, which a layout has not.
		tables, err := last(ctx, store, "localhost/image:1", converted)
		if err != nil {
			return fmt.Errorf("writing the tables of contents: %w", err)
		}
		if err := linkBlobs(to, r.toc); err != nil {
			return err
		}
		if err := finish(ctx, store, r.toc, tables.Target); err != nil {
			return err
		}
	}
	return finish(ctx, store, to, *converted)
}

// oneByOne keeps the calls of a converter apart.
func oneByOne(convert converter.ConvertFunc) converter.ConvertFunc {
	turn := make(chan struct{}, 1)
	return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
		turn <- struct{}{}
		defer func() { <-turn }()
		return convert(ctx, cs, desc)
	}
}
