package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// row is one line of a table.
type row interface{ columns() []string }

// show writes rows as a table with that header, or as one JSON array.
func show[R row](w io.Writer, format string, header []string, rows []R) error {
	if format == "json" {
		return showJSON(w, rows)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(table, strings.Join(r.columns(), "\t"))
	}
	return table.Flush()
}

func showJSON(w io.Writer, value any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(value)
}

// hex writes an ID as etcdctl does.
func hex(id uint64) string { return fmt.Sprintf("%x", id) }
