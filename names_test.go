package octopii_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// foreignFlags are flags of programs of others that the documents call, with
// the program.
var foreignFlags = map[string]string{
	"consistency": "etcdctl get",
	"prefix":      "etcdctl get",
}

// placeholders stand for tests of the reader.
var placeholders = []string{"TestName", "TestYours"}

// foreignTypes are types of other modules that the documents name without their
// package, with the package.
var foreignTypes = map[string]string{
	"RawNode":        "go.etcd.io/raft/v3",
	"StatusResponse": "etcdserverpb of etcd",
}

// foreignSelectors look like package.Name and are none, with what they are.
var foreignSelectors = map[string]string{
	"octopiipb.Admin": "the gRPC service, by its name on the wire",
	"peers.json":      "a file of octopiid",
	"memory.tmp":      "a file of node",
	"octopii.applied": "a key of the database",
	"octopii.content": "a key of the database",
}

// A document says which of its names are judged.
type document struct {
	path string
	// history tells of code that may be gone: Go identifiers and files of
	// code are not judged, and all else is.
	history bool
	// script is judged by its header comment, for tests, variables and files.
	script bool
}

// names is what exists in the tree, by kind.
type names struct {
	tests     map[string]bool
	paths     map[string]bool            // of files and folders, from the root
	flags     map[string]map[string]bool // by program; true: the flag takes no value
	commands  map[string]map[string]bool // by program; "member" and "member add"
	targets   map[string]bool            // of make
	metrics   map[string]bool
	variables map[string]bool            // of the environment
	packages  map[string]map[string]bool // top-level names, fields and methods, by package name
	members   map[string]map[string]bool // fields and methods, by type name
	imports   map[string]bool            // names of packages of others
	declared  map[string]bool            // every top-level name
}

var (
	testShape     = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]+\b`)
	flagShape     = regexp.MustCompile(`(?:^|[\s'"(\[|])--([a-z][a-z0-9-]*[a-z0-9])\b`)
	variableShape = regexp.MustCompile(`\bOCTOPII_[A-Z_]*[A-Z]\b`)
	metricShape   = regexp.MustCompile(`\boctopii_[a-z_]*[a-z]\b`)
	targetShape   = regexp.MustCompile(`(?:^|[\n;&] ?)make ([a-z][a-z-]*)`)
	scenarioShape = regexp.MustCompile(`^[0-9][0-9a-z]_[a-z_]+$`)
	pathShape     = regexp.MustCompile(`^(?:\./)?[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.*-]+)*/?$`)
	fileShape     = regexp.MustCompile(`^[A-Za-z0-9_*-]+\.(?:go|md|proto|bash)$`)
	selectorShape = regexp.MustCompile(`^\*?([A-Za-z][A-Za-z0-9]*)\.([A-Za-z][A-Za-z0-9_]*)(?:\.([A-Za-z][A-Za-z0-9_]*))?(?:\(.*\))?$`)
	errorShape    = regexp.MustCompile(`^Err[A-Z][A-Za-z]+$`)
	positionShape = regexp.MustCompile(`:[0-9]+(?:-[0-9]+)?$`)
	wordShape     = regexp.MustCompile(`^[a-z][a-z-]*$`)
	programShape  = regexp.MustCompile(`(?:^|[;&|] *|\./cmd/|bin/)\s*(octopiid|octopiictl|octopii-chaos) ([^\n;&|]*)`)
	inlineShape   = regexp.MustCompile("`([^`]+)`")
	linkShape     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fenceShape    = regexp.MustCompile("(?ms)^ *```[a-z]*\n(.*?)^ *```")
	headingShape  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
)

// wrong returns what a document says and the tree does not have, a line for
// each. What has none of the shapes above is not judged.
func (n *names) wrong(d document, text string) []string {
	found := n.wrongWords(text)
	if d.script {
		return found
	}
	prose := text
	for _, block := range fenceShape.FindAllStringSubmatch(text, -1) {
		found = append(found, n.wrongCode(strings.ReplaceAll(block[1], "\\\n", " "))...)
		prose = strings.Replace(prose, block[0], "\n", 1)
	}
	for _, m := range inlineShape.FindAllStringSubmatch(prose, -1) {
		span := strings.Join(strings.Fields(m[1]), " ")
		found = append(found, n.wrongCode(span)...)
		found = append(found, n.wrongSpan(d, span)...)
	}
	for _, m := range linkShape.FindAllStringSubmatch(prose, -1) {
		if w := n.wrongLink(d, text, m[1]); w != "" {
			found = append(found, w)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// wrongWords judges names that are unmistakable anywhere, also in prose.
func (n *names) wrongWords(text string) (found []string) {
	for _, name := range testShape.FindAllString(text, -1) {
		if !n.tests[name] && !slices.Contains(placeholders, name) {
			found = append(found, "test "+name)
		}
	}
	for _, name := range variableShape.FindAllString(text, -1) {
		if !n.variables[name] {
			found = append(found, "variable "+name)
		}
	}
	for _, name := range metricShape.FindAllString(text, -1) {
		if !n.metrics[name] {
			found = append(found, "metric "+name)
		}
	}
	return found
}

// explanation stands beside a command, behind two spaces or more.
var explanation = regexp.MustCompile(`(\S)\s{2,}[^\s-].*`)

// wrongCode judges flags and commands, in a block or in a span of code.
func (n *names) wrongCode(code string) (found []string) {
	for line := range strings.Lines(code) {
		line = explanation.ReplaceAllString(line, "$1")
		own := programShape.FindStringSubmatchIndex(line)
		for _, m := range flagShape.FindAllStringSubmatchIndex(line, -1) {
			flag, program := line[m[2]:m[3]], ""
			if strings.HasPrefix(line[m[3]:], "-") {
				continue // the beginning of several
			}
			if own != nil && own[4] <= m[2] && m[2] < own[5] {
				program = line[own[2]:own[3]]
			}
			if !n.hasFlag(program, flag) {
				found = append(found, strings.Join(strings.Fields("flag "+program+" --"+flag), " "))
			}
		}
		for _, m := range programShape.FindAllStringSubmatch(line, -1) {
			if w := n.wrongCommand(m[1], strings.Fields(m[2])); w != "" {
				found = append(found, w)
			}
		}
		for _, m := range targetShape.FindAllStringSubmatch(line, -1) {
			if !n.targets[m[1]] {
				found = append(found, "target make "+m[1])
			}
		}
	}
	if words := strings.Fields(code); len(words) > 1 && words[0] == "member" && wordShape.MatchString(words[1]) {
		if w := n.wrongCommand("octopiictl", words); w != "" {
			found = append(found, w)
		}
	}
	return found
}

// hasFlag reports whether a program has a flag; without a program, whether any
// has.
func (n *names) hasFlag(program, flag string) bool {
	if flag == "help" || flag == "version" {
		return true
	}
	if program != "" {
		_, ok := n.flags[program][flag]
		return ok
	}
	for _, flags := range n.flags {
		if _, ok := flags[flag]; ok {
			return true
		}
	}
	return foreignFlags[flag] != ""
}

// wrongCommand judges the words behind the name of a program.
func (n *names) wrongCommand(program string, words []string) string {
	command := ""
	for i := 0; i < len(words); i++ {
		if flag, ok := strings.CutPrefix(words[i], "--"); ok {
			if bare, known := n.flags[program][flag]; known && !bare {
				i++ // its value
			}
			continue
		}
		if !wordShape.MatchString(words[i]) {
			if command == "" {
				continue // an expansion such as $tls
			}
			return ""
		}
		command = strings.TrimSpace(command + " " + words[i])
		if !n.commands[program][command] {
			return "command " + program + " " + command
		}
		if !n.group(program, command) {
			return ""
		}
	}
	return ""
}

// group reports whether a command has commands below it.
func (n *names) group(program, command string) bool {
	for other := range n.commands[program] {
		if strings.HasPrefix(other, command+" ") {
			return true
		}
	}
	return false
}

// wrongSpan judges paths, packages and Go identifiers, which fill a span.
func (n *names) wrongSpan(d document, span string) []string {
	switch name := positionShape.ReplaceAllString(span, ""); {
	case scenarioShape.MatchString(name):
		if !n.paths["testdata/scenarios/"+name+".txt"] && !n.paths["testdata/core/"+name+".txt"] {
			return []string{"script " + name}
		}
	case fileShape.MatchString(name), n.isPath(name):
		if !d.history && !n.hasPath(d, name) {
			return []string{"path " + name}
		}
	case errorShape.MatchString(name):
		if !d.history && !n.declared[name] {
			return []string{"identifier " + name}
		}
	case !d.history:
		if m := selectorShape.FindStringSubmatch(name); m != nil && foreignSelectors[name] == "" && !n.hasSelector(m[1], m[2], m[3]) {
			return []string{"identifier " + name}
		}
	}
	return nil
}

// isPath reports whether a name is one of a path of this tree, existing or not:
// it begins with a folder of the root.
func (n *names) isPath(name string) bool {
	first, _, below := strings.Cut(strings.TrimPrefix(name, "./"), "/")
	return below && pathShape.MatchString(name) && first != "." && n.paths[first] && !strings.HasSuffix(name, "...")
}

// hasPath reports whether a path exists: from the root, from the document, or
// as the end of a longer one.
func (n *names) hasPath(d document, name string) bool {
	name = path.Clean(name)
	if n.paths[name] || n.paths[path.Join(path.Dir(d.path), name)] {
		return true
	}
	for p := range n.paths {
		if strings.HasSuffix(p, "/"+name) {
			return true
		}
		if ok, _ := path.Match(name, p); ok {
			return true
		}
		if ok, _ := path.Match(name, path.Base(p)); ok {
			return true
		}
	}
	return false
}

// hasSelector judges package.Name, Type.Member and package.Type.Member. An
// unknown first word in lower case is one only if a capital follows.
func (n *names) hasSelector(first, second, third string) bool {
	inType := func(of, member string) bool {
		return n.members[of][member] || n.members[of][camel(member)]
	}
	switch pkg, isPkg := n.packages[first]; {
	case n.members[first] != nil && inType(first, second):
		return true
	case isPkg && third == "":
		return pkg[second]
	case isPkg:
		return pkg[second] && (pkg[third] || inType(second, third))
	case n.members[first] != nil:
		return false
	case n.imports[first], foreignTypes[first] != "":
		return true
	}
	return !ast.IsExported(first) && !ast.IsExported(second)
}

// camel turns the name of a field in a .proto file into that of the Go struct.
func camel(s string) string {
	var b strings.Builder
	for word := range strings.SplitSeq(s, "_") {
		if word != "" {
			b.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
	}
	return b.String()
}

// wrongLink judges a link to a file of the tree and to a heading in one.
func (n *names) wrongLink(d document, text, link string) string {
	if strings.Contains(link, "://") {
		return ""
	}
	file, anchor, _ := strings.Cut(link, "#")
	if file != "" {
		file = path.Join(path.Dir(d.path), file)
		if !n.paths[file] {
			return "link " + link
		}
		if anchor == "" {
			return ""
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return "link " + link + ": " + err.Error()
		}
		text = string(b)
	}
	for _, m := range headingShape.FindAllStringSubmatch(text, -1) {
		if headingAnchor(m[1]) == anchor {
			return ""
		}
	}
	return "anchor " + link
}

// headingAnchor is the anchor that a heading of Markdown has.
func headingAnchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-', r == '_', r >= 'a' && r <= 'z', r >= '0' && r <= '9', r > 127:
			return r
		}
		return -1
	}, strings.ToLower(heading))
}

// readNames reads what exists from the tree.
func readNames(t *testing.T) *names {
	t.Helper()
	n := &names{
		tests: map[string]bool{}, paths: map[string]bool{}, targets: map[string]bool{},
		flags: map[string]map[string]bool{"go test": {}}, commands: map[string]map[string]bool{},
		metrics: map[string]bool{}, variables: map[string]bool{}, imports: map[string]bool{},
		packages: map[string]map[string]bool{}, members: map[string]map[string]bool{}, declared: map[string]bool{},
	}
	err := filepath.WalkDir(".", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Name() == ".git" || p == "bin" {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		n.paths[filepath.ToSlash(p)] = true
		if e.IsDir() {
			return nil
		}
		if strings.HasSuffix(p, ".go") {
			return n.readGo(filepath.ToSlash(p))
		}
		if strings.HasPrefix(p, "scripts"+string(filepath.Separator)) || p == "Makefile" || strings.HasPrefix(p, ".ci") {
			text, err := os.ReadFile(p)
			for _, v := range variableShape.FindAllString(string(text), -1) {
				n.variables[v] = true
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for flag := range n.flags["octopiid"] {
		n.variables["OCTOPII_"+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))] = true
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*)(?: [a-z -]*)?:`).FindAllStringSubmatch(string(makefile), -1) {
		for target := range strings.FieldsSeq(m[0]) {
			n.targets[strings.TrimSuffix(target, ":")] = true
		}
	}
	for kind, some := range map[string]int{
		"tests": len(n.tests), "flags of octopiid": len(n.flags["octopiid"]), "flags of octopiictl": len(n.flags["octopiictl"]),
		"flags of octopii-chaos": len(n.flags["octopii-chaos"]), "commands of octopiid": len(n.commands["octopiid"]),
		"commands of octopiictl": len(n.commands["octopiictl"]), "commands of octopii-chaos": len(n.commands["octopii-chaos"]),
		"metrics": len(n.metrics), "variables": len(n.variables), "targets of make": len(n.targets), "packages": len(n.packages),
	} {
		if some == 0 {
			t.Fatalf("no %s found in the tree: names_test.go looks for them in the wrong place", kind)
		}
	}
	return n
}

// add puts a name into the set of an owner.
func add(sets map[string]map[string]bool, owner, name string) {
	if sets[owner] == nil {
		sets[owner] = map[string]bool{}
	}
	sets[owner][name] = true
}

// readGo takes the names out of one file of Go.
func (n *names) readGo(p string) error {
	f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	pkg := strings.TrimSuffix(f.Name.Name, "_test")
	for _, i := range f.Imports {
		if imported, _ := strconv.Unquote(i.Path.Value); !within(module, imported) {
			n.imports[path.Base(imported)] = true
		}
	}
	declare := func(name string) {
		n.declared[name] = true
		add(n.packages, pkg, name)
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				add(n.packages, pkg, name)
				add(n.members, typeName(d.Recv.List[0].Type), name)
				continue
			}
			declare(name)
			if strings.HasSuffix(p, "_test.go") && testShape.MatchString(name) {
				n.tests[name] = true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					declare(s.Name.Name)
					n.readType(pkg, s)
				case *ast.ValueSpec:
					for _, name := range s.Names {
						declare(name.Name)
					}
				}
			}
		}
	}
	n.readLiterals(p, f)
	return nil
}

// typeName is the name of a receiver's or an embedded field's type.
func typeName(x ast.Expr) string {
	switch x := x.(type) {
	case *ast.StarExpr:
		return typeName(x.X)
	case *ast.IndexExpr:
		return typeName(x.X)
	case *ast.IndexListExpr:
		return typeName(x.X)
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// readType takes the fields and methods out of a type.
func (n *names) readType(pkg string, s *ast.TypeSpec) {
	add(n.members, s.Name.Name, "")
	ast.Inspect(s.Type, func(node ast.Node) bool {
		field, ok := node.(*ast.Field)
		if !ok {
			return true
		}
		for _, name := range field.Names {
			add(n.members, s.Name.Name, name.Name)
			add(n.packages, pkg, name.Name)
		}
		if field.Names == nil {
			add(n.members, s.Name.Name, typeName(field.Type))
		}
		return true
	})
}

var (
	flagMethod  = regexp.MustCompile(`^(String|Bool|Int|Uint|Float|Duration|Func|Text)[A-Za-z0-9]*$|^Var[A-Za-z]*$`)
	metricsFile = "node/metrics.go"
)

// readLiterals takes flags, commands, metrics and variables out of a file: they
// are strings in it.
func (n *names) readLiterals(p string, f *ast.File) {
	program := ""
	if rest, ok := strings.CutPrefix(p, "cmd/"); ok && !strings.HasSuffix(p, "_test.go") {
		program, _, _ = strings.Cut(rest, "/")
	}
	ast.Inspect(f, func(node ast.Node) bool {
		switch x := node.(type) {
		case *ast.BasicLit:
			if p == "names_test.go" {
				return true // its wrong names are planted
			}
			s, err := strconv.Unquote(x.Value)
			if x.Kind != token.STRING || err != nil {
				return true
			}
			for _, v := range variableShape.FindAllString(s, -1) {
				n.variables[v] = true
			}
			if p == metricsFile && wordShape.MatchString(strings.ReplaceAll(s, "_", "-")) {
				n.metrics["octopii_node_"+strings.TrimPrefix(s, "octopii_node_")] = true
			}
		case *ast.CallExpr:
			n.readFlag(program, x)
		}
		return true
	})
	if program != "" {
		n.readCommands(program, f)
	}
}

// readFlag takes the flag out of a call such as f.StringVar(&s, "name", ...).
func (n *names) readFlag(program string, call *ast.CallExpr) {
	fun, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !flagMethod.MatchString(fun.Sel.Name) || len(call.Args) < 3 {
		return
	}
	if pkg, ok := fun.X.(*ast.Ident); ok && pkg.Name == "flag" {
		program = "go test"
	}
	if program == "" {
		return
	}
	at := 0
	if strings.Contains(fun.Sel.Name, "Var") {
		at = 1
	}
	name := ""
	switch arg := call.Args[at].(type) {
	case *ast.BasicLit:
		name, _ = strconv.Unquote(arg.Value)
	case *ast.Ident:
		if arg.Name == "configFlag" {
			name = "config"
		}
	}
	if !wordShape.MatchString(name) {
		return
	}
	if n.flags[program] == nil {
		n.flags[program] = map[string]bool{}
	}
	n.flags[program][name] = strings.HasPrefix(fun.Sel.Name, "Bool")
}

// readCommands takes the commands out of a file of a program. One below a group
// is made by a function that is named after both, such as newMemberList.
func (n *names) readCommands(program string, f *ast.File) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		above := ""
		for _, g := range []string{"member", "leader", "log"} {
			if rest, ok := strings.CutPrefix(fn.Name.Name, "new"+camel(g)); ok && rest != "" {
				above = g + " "
			}
		}
		command := func(use ast.Expr, above string) {
			lit, ok := use.(*ast.BasicLit)
			if !ok {
				return
			}
			s, _ := strconv.Unquote(lit.Value)
			if words := strings.Fields(s); len(words) > 0 && words[0] != program {
				add(n.commands, program, above+words[0])
			}
		}
		ast.Inspect(fn, func(node ast.Node) bool {
			switch x := node.(type) {
			case *ast.KeyValueExpr:
				if key, ok := x.Key.(*ast.Ident); ok && key.Name == "Use" {
					command(x.Value, above)
				}
			case *ast.CallExpr:
				fun, _ := x.Fun.(*ast.Ident)
				if fun != nil && fun.Name == "group" {
					command(x.Args[0], "")
				}
				if fun != nil && fun.Name == "newMemberID" {
					verb := x.Args[1].(*ast.SelectorExpr).Sel.Name
					add(n.commands, program, "member "+strings.ToLower(strings.TrimPrefix(verb, "Verb")))
				}
			}
			return true
		})
	}
}

func documents(t *testing.T) []document {
	t.Helper()
	list := []document{{path: "README.md"}, {path: "CONTRIBUTING.md"}, {path: "CHANGELOG.md", history: true}}
	for _, pattern := range []string{"docs/*.md", "testdata/*/README.md", "scripts/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		for _, p := range found {
			if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
				p = filepath.ToSlash(p)
				list = append(list, document{p, p == "docs/bugs-found.md", strings.HasPrefix(p, "scripts/")})
			}
		}
	}
	return list
}

// header is the comment at the head of a script.
func header(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			break
		}
		b.WriteString(line)
	}
	return b.String()
}

func TestDocumentsNameWhatExists(t *testing.T) {
	n := readNames(t)
	for _, d := range documents(t) {
		b, err := os.ReadFile(d.path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if d.script {
			text = header(text)
		}
		for _, w := range n.wrong(d, text) {
			t.Errorf("%s names what does not exist: %s", d.path, w)
		}
	}
}

func TestWrongNamesAreFound(t *testing.T) {
	n := readNames(t)
	for _, c := range []struct{ text, want string }{
		{"what TestNoSuchThing shows", "test TestNoSuchThing"},
		{"`FuzzNoSuchThing`", "test FuzzNoSuchThing"},
		{"`TestNoSuchThing/case`", "test TestNoSuchThing"},
		{"```\ngo test -run TestNoSuchThing\n```\n", "test TestNoSuchThing"},
		{"`node/nothing.go`", "path node/nothing.go"},
		{"`node/nothing.go:12`", "path node/nothing.go"},
		{"`nothing.go`", "path nothing.go"},
		{"`node/internal/nothing`", "path node/internal/nothing"},
		{"`99_nothing`", "script 99_nothing"},
		{"[x](docs/NOTHING.md)", "link docs/NOTHING.md"},
		{"# A b\n[x](#a-c)", "anchor #a-c"},
		{"[x](docs/TESTING.md#nothing)", "anchor docs/TESTING.md#nothing"},
		{"`--no-such-flag`", "flag --no-such-flag"},
		{"`octopiid start --cacert x`", "flag octopiid --cacert"},
		{"```\noctopiid start \\\n  --seeds 3\n```\n", "flag octopiid --seeds"},
		{"`octopiid stop`", "command octopiid stop"},
		{"`octopiictl member burn n1`", "command octopiictl member burn"},
		{"`octopiictl --output json state`", "command octopiictl state"},
		{"`member burn`", "command octopiictl member burn"},
		{"`octopii-chaos simulate`", "command octopii-chaos simulate"},
		{"`make nothing`", "target make nothing"},
		{"`octopii_node_nothing`", "metric octopii_node_nothing"},
		{"`OCTOPII_NOTHING=1`", "variable OCTOPII_NOTHING"},
		{"`node.Nothing`", "identifier node.Nothing"},
		{"`Config.Nothing`", "identifier Config.Nothing"},
		{"`node.Config.Nothing`", "identifier node.Config.Nothing"},
		{"`nothing.Config`", "identifier nothing.Config"},
		{"`ErrNothing`", "identifier ErrNothing"},
		{"`TestWrongNamesAreFound`, `node/config.go:3`, `config.go`, `raftstore`, `node/internal/core`", ""},
		{"# A b\n[x](#a-b) [y](docs/TESTING.md#kinds-of-tests) [z](https://example.com/x)", ""},
		{"`octopiid start --join a,b --expect 3`, `--expect`, `octopiictl --output json member list`, `make sim`", ""},
		{"`octopii_node_term`, `OCTOPII_SEED=1`, `OCTOPII_DATA_DIR`", ""},
		{"`node.Config`, `Config.Expect`, `node.Config.Expect`, `ErrAmnesia`, `raftpb.Entry`", ""},
		{"`any other words` and `x`", ""},
	} {
		got := strings.Join(n.wrong(document{path: "README.md"}, c.text), "; ")
		if got != c.want {
			t.Errorf("%q: %q is wrong, want %q", c.text, got, c.want)
		}
	}
}
