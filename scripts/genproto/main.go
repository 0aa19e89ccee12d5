// Command genproto writes the .pb.go files below proto/ from the .proto files beside
// them.
//
// It needs Go and nothing else: a .proto file is compiled by a Go library
// and handed to gogo's generator in this same process, so that every machine
// makes the same bytes. With -check it writes nothing and exits with 1 when a
// file is not current.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/linker"
	"github.com/bufbuild/protocompile/protoutil"
	gogoproto "github.com/gogo/protobuf/proto"
	descriptor "github.com/gogo/protobuf/protoc-gen-gogo/descriptor"
	"github.com/gogo/protobuf/protoc-gen-gogo/generator"
	plugin "github.com/gogo/protobuf/protoc-gen-gogo/plugin"
	"github.com/gogo/protobuf/vanity"
	// Has all of the generator's plugins; what it offers itself works once a process.
	_ "github.com/gogo/protobuf/vanity/command"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// source is a .proto file in a folder of the repository.
type source struct{ dir, name string }

var sources = []source{
	{"proto", "octopii.proto"},
	{"proto/adminpb", "admin.proto"},
}

func main() {
	check := flag.Bool("check", false, "exit with 1 when a generated file is not current")
	root := flag.String("root", ".", "the repository's root")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "genproto:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	for _, src := range sources {
		if err := src.update(root, check); err != nil {
			return err
		}
	}
	return nil
}

func (src source) update(root string, check bool) error {
	want, err := src.generate(root)
	if err != nil {
		return fmt.Errorf("%s: %w", src.name, err)
	}
	target := filepath.Join(root, src.dir, strings.TrimSuffix(src.name, ".proto")+".pb.go")
	have, _ := os.ReadFile(target)
	if bytes.Equal(have, want) {
		return nil
	}
	if check {
		return fmt.Errorf("%s is not current: run scripts/genproto/run", target)
	}
	return os.WriteFile(target, want, 0o644)
}

// generate returns the Go code.
func (src source) generate(root string) ([]byte, error) {
	gogo, err := moduleDir(root, "github.com/gogo/protobuf")
	if err != nil {
		return nil, err
	}
	raft, err := moduleDir(root, "go.etcd.io/raft/v3")
	if err != nil {
		return nil, err
	}
	compiler := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			ImportPaths: []string{filepath.Join(root, src.dir), gogo, raft},
		}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), src.name)
	if err != nil {
		return nil, err
	}
	req := &plugin.CodeGeneratorRequest{
		FileToGenerate: []string{src.name},
		Parameter: gogoproto.String("paths=source_relative,plugins=grpc," +
			"Mraftpb/raft.proto=go.etcd.io/raft/v3/raftpb"),
	}
	if err := addWithImports(req, files[0], map[string]bool{}); err != nil {
		return nil, err
	}
	// What protoc-gen-gogofaster turns on.
	for _, f := range req.ProtoFile {
		if f.GetName() != src.name {
			continue
		}
		one := []*descriptor.FileDescriptorProto{f}
		vanity.ForEachFile(one, vanity.TurnOnMarshalerAll)
		vanity.ForEachFile(one, vanity.TurnOnSizerAll)
		vanity.ForEachFile(one, vanity.TurnOnUnmarshalerAll)
	}
	g := generator.New()
	g.Request = req
	g.CommandLineParameters(req.GetParameter())
	g.WrapTypes()
	g.SetPackageNames()
	g.BuildTypeNameMap()
	g.GenerateAllFiles()
	if len(g.Response.File) != 1 {
		return nil, fmt.Errorf("the generator made %d files, want 1", len(g.Response.File))
	}
	return format.Source([]byte(g.Response.File[0].GetContent()))
}

// addWithImports appends f to the request, behind everything that it imports.
func addWithImports(req *plugin.CodeGeneratorRequest, f protoreflect.FileDescriptor, seen map[string]bool) error {
	if seen[f.Path()] {
		return nil
	}
	seen[f.Path()] = true
	imports := f.Imports()
	for i := range imports.Len() {
		if err := addWithImports(req, imports.Get(i).FileDescriptor, seen); err != nil {
			return err
		}
	}
	fd := protoutil.ProtoFromFileDescriptor(f)
	if r, ok := f.(linker.Result); ok {
		fd = r.FileDescriptorProto()
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(fd)
	if err != nil {
		return err
	}
	old := &descriptor.FileDescriptorProto{}
	if err := gogoproto.Unmarshal(raw, old); err != nil {
		return err
	}
	req.ProtoFile = append(req.ProtoFile, old)
	return nil
}

// moduleDir is where the module cache holds path at the version of root's go.mod.
func moduleDir(root, path string) (string, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go list -m %s: %w", path, err)
	}
	return strings.TrimSpace(string(out)), nil
}
