// Command filters prints the table that the filter grammar of pontoon-snapshot is tested with: filters, and
// which of a few snapshots containerd's own metadata store finds with each.
//
// The table is checked in. Make it again, from this folder's parent, with
//
//	go run ./filters >../../core/snapshot/tests/filters.jsonl
//
// Its first line holds the snapshots, every other line one filter. The random filters come from a fixed seed,
// so the same containerd gives the same table.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/log"
)

const randomFilters = 4000

type snapshot struct {
	Name   string            `json:"name"`
	Parent string            `json:"parent,omitempty"`
	Kind   string            `json:"kind"`
	Labels map[string]string `json:"labels,omitempty"`
}

// outcome is one line of the table. Found has a letter for each snapshot, '1' where the filter matches it.
type outcome struct {
	Filter  string `json:"filter"`
	Found   string `json:"found,omitempty"`
	Refused bool   `json:"refused,omitempty"`
}

// Parents come before their children.
var table = []snapshot{
	{Name: "default/1/sha256:aa", Kind: "committed", Labels: map[string]string{
		"containerd.io/snapshot.ref": "sha256:aa", "l": "1"}},
	{Name: "default/2/sha256:bb", Parent: "default/1/sha256:aa", Kind: "committed", Labels: map[string]string{
		"containerd.io/snapshot.ref": "sha256:bb", "a.b": "x y", "l": "2"}},
	{Name: "default/3/c", Parent: "default/2/sha256:bb", Kind: "active"},
	{Name: "default/4/v", Parent: "default/2/sha256:bb", Kind: "view", Labels: map[string]string{
		"quoted \"key\"": "a,b", "_x9": "=="}},
	{Name: "foo", Kind: "active", Labels: map[string]string{"foo": "bar", "l": "foo/bar|baz", "name": "labels"}},
	{Name: "кот é", Kind: "view", Labels: map[string]string{"кот": "é\\d", "new\nline": "a\nb\tc"}},
}

var written = []string{
	"", " ", ",", ".", "==", "name", " name", "name ", "\tname==foo", "name==foo ", "name == foo", "name\n==\nfoo",
	"name==foo,kind==active", "name==foo, kind==active", "name==foo ,kind==active", "name==foo,", ",name==foo",
	"name,parent", "name,,parent", "name.", ".name", "name.x", "name. x", "name .x", "name.x==foo", "kind.a.b==view",
	"parent", "parent==", "parent==\"\"", "parent!=\"\"", "parent==''", "kind", "kind==active", "kind==Active", "kind!=view",
	"kind~=^a", "nothing", "nothing==\"\"", "nothing!=\"\"", "nothing!=x", "nothing~=^$", "nothing~=x", "Name==foo",
	"labels", "labels==\"\"", "labels!=\"\"", "labels.l", "labels.l==1", "labels.l!=1", "labels.l~=\"^[12]$\"", "labels.a.b",
	"labels.\"a.b\"", "labels.a.\"b\"", "labels.\"a\".b==\"x y\"", "\"labels\".l==2", "labels.\"l\"==2", "labels.\"\"",
	"labels.\"quoted \\\"key\\\"\"==\"a,b\"", "labels.\"кот\"", "labels.кот", "labels.\"\\u043a\\u043e\\u0442\"",
	"labels.\"\\xd0\\xba\\xd0\\xbe\\xd1\\x82\"", "labels.\"new\\nline\"", "labels.\"new\nline\"", "labels.\"new\\012line\"==\"a\\nb\\tc\"",
	"labels.\"containerd.io/snapshot.ref\"==sha256:bb,parent==\"default/1/sha256:aa\"",
	"labels.containerd.io/snapshot.ref", "labels._x9==\"==\"", "labels._x9===", "labels._x9== ==", "labels.9", "labels.a-b",
	"name=foo", "name===foo", "name!foo", "name!==foo", "name=~foo", "name~=foo", "name~foo", "name==!foo", "name==foo!bar",
	"name==foo==bar", "name==foo.bar", "name==.foo", "name==foo/bar", "name==/foo/", "name==|foo|", "name~=/foo/", "name~=|foo|",
	"name~=\"foo\"", "name~='foo'", "name==`foo`", "name~=/f\\/o/", "name~=|f\\|o|", "name~=/f\\|o/", "name~=|f\\/o|", "name~=\"f\\/o\"",
	"labels.l~=/foo\\/bar/", "labels.l~=|foo/bar\\\\||", "labels.l~=|foo/bar\\||", "/name/==foo", "|name|==foo", "\"name\"==foo",
	"'name'==foo", "name==\"foo", "name==foo\"", "name==\"foo\"bar", "name==\"foo\" bar", "name\"foo\"", "name==\"\\q\"", "name==\"\\'\"",
	"name==\"\\", "name==\"\\x4\"", "name==\"\\x66oo\"", "name==\"\\x6foo\"", "name==\"\\146oo\"", "name==\"\\400\"", "name==\"\\18\"",
	"name==\"\\u0066oo\"", "name==\"\\u66oo\"", "name==\"\\U00000066oo\"", "name==\"\\U00110000\"", "name==\"\\ud800\"", "name==\"\\xff\"",
	"name!=\"\\xff\"", "name==foo\x00", "name==\x00", "name\x00==foo", "name==\"f\x00o\"", "name==\ufffd", "name==\"\ufffd\"", "name==\"\\ufffd\"",
	"name==\x01", "name==a\x01", "name!=\x01,kind==active", "name== foo", "name==\u00a0foo", "name==\u2003foo", "name==кот",
	"name==\"кот é\"", "name==\"кот \\u00e9\"", "name~=^кот", "name~=кот.é$", "name~=^.{5}$", "name~=\"\\\\d\"", "name~=\\d", "name~=\\D",
	"name~=^default/\\d/", "name~=^\\w+$", "name~=\\W", "name~=\\s", "name~=[\\s]", "name~=^[^\\s]+$", "name~=^[\\d\\w/]+$", "name~=\\bfoo\\b",
	"name~=\\Bo", "name~=т\\b", "name~=(?i)FOO", "name~=(?i)КОТ", "name~=^\\pL+$", "name~=\\p{Cyrillic}", "name~=[[:alpha:]]", "name~=[[:^alpha:]]",
	"name~=f(o)*$", "name~=(f|k)oo", "name~=(?P<n>foo)", "name~=(?:foo)", "name~=^fo{2}$", "name~=^fo{3}$", "name~=fo{2", "name~=x{1001}", "name~=",
	"name~=\"\"", "name~=/", "name~=//", "name~=(", "name~=)", "name~=[", "name~=*", "name~=a**", "name~=(?<n>foo)", "name~=(?=foo)", "name~=\\1",
	"name~=^foo$", "name~=\\Afoo\\z", "name~=foo\\Z", "name~=(?m)^b", "labels.\"new\\nline\"~=(?m)^b", "labels.\"new\\nline\"~=a.b",
	"labels.\"new\\nline\"~=(?s)a.b", "labels.\"new\\nline\"~=^b", "labels.\"кот\"~=/\\\\\\\\d$/", "labels.\"кот\"==é\\d", "labels.\"кот\"==\"é\\\\d\"",
	"name~=/^default,/", "name~=^default/1/.*:aa$,labels.l", "name~=\"\\xff\"", "name==foo\nkind", "name==foo\n,kind", "name==foo,\nkind==active",
	"name,parent,kind,labels.l", "name!=foo,name!=x", "name.name.name", "name..name", "labels..l", "labels.l.", "labels.l,", "name==a'b", "name!=a'b'",
}

// Pieces of random filters; a value that some snapshot has stands beside one that none has.
var (
	fields = []string{"name", "parent", "kind", "labels.l", "labels.foo", "labels.a.b", "labels.\"a.b\"", "labels", "other",
		"labels.\"containerd.io/snapshot.ref\"", "labels.\"кот\"", "\"kind\"", "labels._x9"}
	operators = []string{"==", "!=", "~=", "==", "!=", "=", "", " == ", "\t!="}
	values    = []string{"foo", "active", "view", "committed", "1", "2", "\"\"", "bar", "sha256:aa", "\"x y\"", "default/2/sha256:bb",
		"\"default/1/sha256:aa\"", "/foo/", "|2|", "^d", "a$", "\"\\x66oo\"", "[a-f]+", "\"==\"", "x", ""}
	noise = []string{" ", ",", ".", "\"", "\\", "/", "|", "=", "!", "~", "\n", "x", "é", "_", "'", "\\n", "\\x", "(", "\u00a0", "-"}
)

func random(r *rand.Rand) string {
	pick := func(from []string) string { return from[r.IntN(len(from))] }
	var filter strings.Builder
	for i := range 1 + r.IntN(3) {
		if i > 0 {
			filter.WriteByte(',')
		}
		filter.WriteString(pick(fields))
		if r.IntN(5) > 0 {
			filter.WriteString(pick(operators))
			filter.WriteString(pick(values))
		}
	}
	text := []rune(filter.String())
	for range max(0, r.IntN(5)-2) {
		at := r.IntN(len(text) + 1)
		if r.IntN(2) == 0 && at < len(text) {
			text = append(text[:at:at], text[at+1:]...)
		} else {
			text = append(text[:at:at], append([]rune(pick(noise)), text[at:]...)...)
		}
	}
	return string(text)
}

// fill stores the table's snapshots.
func fill(ctx context.Context) error {
	for _, s := range table {
		labels := snapshots.WithLabels(s.Labels)
		kind, key := snapshots.KindActive, s.Name
		switch s.Kind {
		case "view":
			kind = snapshots.KindView
		case "committed":
			key += "-active"
		}
		if _, err := storage.CreateSnapshot(ctx, kind, key, s.Parent, labels); err != nil {
			return err
		}
		if s.Kind == "committed" {
			if _, err := storage.CommitActive(ctx, key, s.Name, snapshots.Usage{}, labels); err != nil {
				return err
			}
		}
	}
	return nil
}

func ask(ctx context.Context, filter string) outcome {
	found := map[string]bool{}
	err := storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		found[info.Name] = true
		return nil
	}, filter)
	if err != nil {
		return outcome{Filter: filter, Refused: true}
	}
	letters := make([]byte, len(table))
	for i, s := range table {
		letters[i] = '0'
		if found[s.Name] {
			letters[i] = '1'
		}
	}
	return outcome{Filter: filter, Found: string(letters)}
}

func run(out io.Writer) error {
	// It logs every expression that does not compile.
	log.L.Logger.SetOutput(io.Discard)
	dir, err := os.MkdirTemp("", "filters-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	store, err := storage.NewMetaStore(filepath.Join(dir, "metadata.db"))
	if err != nil {
		return err
	}
	defer store.Close()
	ctx, transaction, err := store.TransactionContext(context.Background(), true)
	if err != nil {
		return err
	}
	defer transaction.Rollback()
	if err := fill(ctx); err != nil {
		return err
	}

	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	if err := lines.Encode(table); err != nil {
		return err
	}
	filters := written
	r := rand.New(rand.NewPCG(1, 2))
	for range randomFilters {
		filters = append(filters, random(r))
	}
	seen := map[string]bool{}
	for _, filter := range filters {
		if seen[filter] {
			continue
		}
		seen[filter] = true
		if err := lines.Encode(ask(ctx, filter)); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	out := bufio.NewWriter(os.Stdout)
	err := run(out)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "filters:", err)
		os.Exit(1)
	}
}
