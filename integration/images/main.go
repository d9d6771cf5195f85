// Command images converts an image in an OCI layout into the lazily loadable formats,
// with the libraries of stargz-snapshotter: those that ctr-remote, nerdctl and BuildKit
// use.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// Where a layer is cut into members depends on how many threads cut it
// (docs/smaller-estargz.md of stargz-snapshotter): with a fixed number, the same image
// gives the same blobs on every machine.
const threads = 2

const usage = `usage: images -format FORMAT [OPTION...] FROM TO

FROM is an OCI layout with one image, TO the new one that is written.
Formats: estargz, stargz (with the old footer), external-toc, external-toc-lossless,
zstd-chunked.`

func run(arguments []string) error {
	var r request
	var prefetch string
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&r.format, "format", "", "what to convert into")
	flags.IntVar(&r.chunkSize, "chunk-size", 0, "largest chunk, uncompressed `bytes` (0: the library's 4 MiB)")
	flags.IntVar(&r.minChunkSize, "min-chunk-size", 0, "smallest member, uncompressed `bytes`: small files share one")
	flags.StringVar(&prefetch, "prefetch", "", "comma-separated `paths` that go first, before a landmark")
	flags.StringVar(&r.toc, "toc", "", "external-toc: the `layout` for the image with the tables of contents")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() != 2 {
		return errors.New(usage)
	}
	if prefetch != "" {
		r.prefetch = strings.Split(prefetch, ",")
	}
	return r.convert(context.Background(), flags.Arg(0), flags.Arg(1))
}

func main() {
	runtime.GOMAXPROCS(threads)
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}
