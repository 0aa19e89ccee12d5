package octopii_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	module   = "github.com/octopii/octopii"
	corePath = "node/internal/core"
)

// arrow says what the packages that from names may import.
type arrow struct {
	from string
	to   []string
}

// arrows is the picture in docs/ARCHITECTURE.md: which packages of this module
// a package may import. Paths are relative to the module; "x/..." is every
// package below x; the first row whose from matches counts. Tests may import
// more.
var arrows = []arrow{
	{".", nil},
	{"cmd/octopiid", []string{"internal/...", "node", "node/comeback", "transport/tcp", "wal", "wal/etcdwal"}},
	{"cmd/octopii-chaos", []string{"node", "internal/..."}},
	{"cmd/...", []string{"internal/...", "node", "transport/tcp", "proto/adminpb"}},
	{"internal/buildinfo", nil},
	{"internal/selfheal", nil},
	{"internal/vfs", nil},
	{"internal/vfs/vfstest", []string{"internal/vfs"}},
	{"internal/logtool", []string{"wal", "wal/etcdwal", "raftstore", "internal/vfs"}},
	{"internal/stepped", []string{"raftstore", "transport", "proto", "internal/vfs"}},
	{"internal/check", nil},
	{"internal/loglimit", nil},
	{"internal/localnet", []string{"transport", "transport/tcp"}},
	{"internal/sim", []string{"node", "internal/stepped", "internal/check", "internal/selfheal", "internal/vfs", "internal/vfs/vfstest", "raftstore", "wal", "transport", "proto"}},
	{"internal/...", []string{"internal/...", "node", "transport/tcp", "proto/adminpb"}},
	{"node/nodetest", []string{"node", "internal/sim"}},
	{"node/comeback", []string{"node", "raftstore", "transport", "internal/selfheal", "internal/vfs"}},
	{corePath, []string{"proto"}},
	{"node", []string{corePath, "internal/stepped", "raftstore", "transport", "proto", "wal", "internal/vfs", "internal/selfheal", "internal/loglimit"}},
	{"raftstore", []string{"wal", "proto", "internal/vfs"}},
	{"transport/...", []string{"transport", "proto", "internal/loglimit"}},
	{"transport", nil},
	{"wal/etcdwal", []string{"wal", "internal/vfs"}},
	{"wal/waltest", nil},
	{"wal", []string{"internal/vfs"}},
	{"proto", nil},
	{"proto/adminpb", nil},
}

// fences are libraries that only some packages may import, so that replacing
// one stays a change of those packages.
var fences = []struct {
	module string
	only   []string
}{
	// A transport moves opaque messages, and programs on node never see raft.
	{"go.etcd.io/raft/v3", []string{"node", "node/...", "raftstore", "wal", "wal/...", "proto", "internal/logtool", "internal/stepped", "internal/sim"}},
	// Nor do they link a second way to talk over the network.
	{"google.golang.org/grpc", []string{"proto/adminpb", "internal/...", "cmd/..."}},
	// etcd's server packages do not compile beside every version of its client.
	{"go.etcd.io/etcd", []string{"wal/etcdwal", "internal/...", "cmd/..."}},
}

// impure are imports through which time, disk, network, threads or chance would
// reach core, which must do the same on every replay.
var impure = []string{
	"context", "crypto", "io/fs", "io/ioutil", "log", "math/rand", "net", "os",
	"runtime", "sync", "syscall", "time", "go.etcd.io/etcd",
}

// pkg is what this test reads of the output of go list -json.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
}

// path is the package's path within the module; "." is the root.
func (p pkg) path() string {
	rel, ok := ownPath(p.ImportPath)
	if !ok {
		panic("go list ./... named " + p.ImportPath + ", which is not in " + module)
	}
	return rel
}

// ownPath returns the path within the module of one of its packages.
func ownPath(importPath string) (rel string, own bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// matches reports whether a path is named by a pattern of the tables above.
func matches(pattern, path string) bool {
	if above, ok := strings.CutSuffix(pattern, "/..."); ok {
		return strings.HasPrefix(path, above+"/")
	}
	return pattern == path
}

func matchesAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, path) })
}

// within reports whether an import path is root or below it.
func within(root, importPath string) bool {
	return importPath == root || strings.HasPrefix(importPath, root+"/")
}

// goList returns what go list prints, without using the network.
func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// packages lists the module's packages.
func packages(t *testing.T) []pkg {
	t.Helper()
	openEveryFolder(t)
	dec := json.NewDecoder(bytes.NewReader(goList(t, "-json=ImportPath,Dir,GoFiles,Imports", "./...")))
	var all []pkg
	for {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("read go list -json: %v", err)
		}
		all = append(all, p)
	}
}

// openEveryFolder tells go test that the result depends on the whole tree: it
// sees the files that a test opens and not those that go list reads, and would
// otherwise repeat an old answer from its cache.
func openEveryFolder(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImportsFollowTheArrows(t *testing.T) {
	for _, p := range packages(t) {
		row := slices.IndexFunc(arrows, func(a arrow) bool { return matches(a.from, p.path()) })
		if row < 0 {
			t.Errorf("%s has no row in the table arrows in imports_test.go: add it there and to the picture in docs/ARCHITECTURE.md", p.path())
			continue
		}
		for _, imported := range p.Imports {
			to, own := ownPath(imported)
			if own && !matchesAny(arrows[row].to, to) {
				t.Errorf("%s -> %s: not an arrow of the table in imports_test.go; %s may import %v of this module", p.path(), to, p.path(), arrows[row].to)
			}
		}
	}
}

func TestLibrariesStayBehindTheirFences(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for _, f := range fences {
				if within(f.module, imported) && !matchesAny(f.only, p.path()) {
					t.Errorf("%s -> %s: by the table fences in imports_test.go only %v may import %s", p.path(), imported, f.only, f.module)
				}
			}
		}
	}
}

// core returns the package that must be pure.
func core(t *testing.T) pkg {
	t.Helper()
	all := packages(t)
	i := slices.IndexFunc(all, func(p pkg) bool { return p.path() == corePath })
	if i < 0 {
		t.Fatalf("%s is gone: if it moved, say so in imports_test.go", corePath)
	}
	return all[i]
}

func TestCoreImportsNothingImpure(t *testing.T) {
	for _, imported := range core(t).Imports {
		for _, bad := range impure {
			if within(bad, imported) {
				t.Errorf("%s -> %s: core only decides; time, I/O, threads and chance reach it as inputs (table impure in imports_test.go)", corePath, imported)
			}
		}
	}
}

// Nothing in core may depend on the scheduler or on the order of a map.
func TestCoreIsDeterministic(t *testing.T) {
	p := core(t)
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	typeOf := checkTypes(t, fset, p, files)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if what := undetermined(n, typeOf); what != "" {
				t.Errorf("%v: %s: a replay must not depend on it; see imports_test.go", fset.Position(n.Pos()), what)
			}
			return true
		})
	}
}

// undetermined names what makes a node of the syntax tree differ from run to
// run, or is empty.
func undetermined(n ast.Node, typeOf func(ast.Expr) types.Type) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a go statement"
	case *ast.SelectStmt:
		return "a select"
	case *ast.ChanType:
		return "a channel"
	case *ast.RangeStmt:
		if _, ok := typeOf(n.X).Underlying().(*types.Map); ok || callsMaps(n.X) {
			return "a range in the order of a map (use slices.Sorted(maps.Keys(m)))"
		}
	}
	return ""
}

// callsMaps reports whether an expression is a call such as maps.Keys(m).
func callsMaps(x ast.Expr) bool {
	call, ok := x.(*ast.CallExpr)
	if !ok {
		return false
	}
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	name, ok := fun.X.(*ast.Ident)
	return ok && name.Name == "maps"
}

// checkTypes returns the types of a package's expressions. Its imports come
// from the export data that go build leaves in its cache.
func checkTypes(t *testing.T, fset *token.FileSet, p pkg, files []*ast.File) func(ast.Expr) types.Type {
	t.Helper()
	exports := map[string]string{}
	for line := range strings.Lines(string(goList(t, "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", p.ImportPath))) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	open := func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("go list -export named no file for %s", path)
		}
		return os.Open(exports[path])
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", open)}
	if _, err := conf.Check(p.ImportPath, fset, files, info); err != nil {
		t.Fatalf("check the types of %s: %v", p.ImportPath, err)
	}
	return info.TypeOf
}

// TestNodeShowsNothingOfRaft: no type of raft, of gogo or of the messages on the wire can be
// reached from what package node exports, by exported names.
func TestNodeShowsNothingOfRaft(t *testing.T) {
	openEveryFolder(t)
	exports := map[string]string{}
	for line := range strings.Lines(string(goList(t, "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}", module+"/node"))) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	p, err := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) }).Import(module + "/node")
	if err != nil {
		t.Fatal(err)
	}
	w := reach{t: t, seen: map[types.Type]bool{}}
	for _, name := range p.Scope().Names() {
		if o := p.Scope().Lookup(name); o.Exported() {
			w.visit(o.Type(), "node."+name)
		}
	}
	if len(w.seen) < 50 {
		t.Errorf("only %d types were seen", len(w.seen))
	}
}

// reach goes through the types that somebody can get at.
type reach struct {
	t    *testing.T
	seen map[types.Type]bool
}

func (w reach) visit(typ types.Type, way string) {
	if w.seen[typ] {
		return
	}
	w.seen[typ] = true
	switch typ := typ.(type) {
	case *types.Named:
		if p := typ.Obj().Pkg(); p != nil {
			switch path := p.Path(); {
			case strings.HasPrefix(path, "go.etcd.io/"), strings.HasPrefix(path, "github.com/gogo/"), path == module+"/proto":
				w.t.Errorf("%s leads to %s", way, typ)
				return
			case !strings.HasPrefix(path, module):
				return
			}
		}
		for m := range typ.Methods() {
			if m.Exported() {
				w.visit(m.Type(), way+"."+m.Name())
			}
		}
		w.visit(typ.Underlying(), way)
	case *types.Alias:
		w.visit(types.Unalias(typ), way)
	case *types.Pointer:
		w.visit(typ.Elem(), way)
	case *types.Slice:
		w.visit(typ.Elem(), way)
	case *types.Array:
		w.visit(typ.Elem(), way)
	case *types.Chan:
		w.visit(typ.Elem(), way)
	case *types.Map:
		w.visit(typ.Key(), way)
		w.visit(typ.Elem(), way)
	case *types.Struct:
		for f := range typ.Fields() {
			if f.Exported() || f.Embedded() {
				w.visit(f.Type(), way+"."+f.Name())
			}
		}
	case *types.Interface:
		for m := range typ.Methods() {
			if m.Exported() {
				w.visit(m.Type(), way+"."+m.Name())
			}
		}
	case *types.Signature:
		for _, list := range []*types.Tuple{typ.Params(), typ.Results()} {
			for v := range list.Variables() {
				w.visit(v.Type(), way)
			}
		}
	}
}
