package main

import "testing"

// Endpoints of two clusters are a problem, and those that do not answer, or have none, are not of
// another one.
func TestTellClustersApart(t *testing.T) {
	rows := []memberStatus{{Endpoint: "a", Error: "refused"}, {Endpoint: "b", Cluster: "1"}, {Endpoint: "c", Cluster: "1"}, {Endpoint: "d"}, {Endpoint: "e", Cluster: "2"}}
	tellClustersApart(rows)
	for i, want := range []int{0, 0, 0, 0, 1} {
		if len(rows[i].Problems) != want {
			t.Errorf("%s has the problems %q, want %d", rows[i].Endpoint, rows[i].Problems, want)
		}
	}
	if unhealthy(rows[1:3]) != nil || unhealthy(rows[1:]) == nil {
		t.Error("only two clusters are a problem")
	}
}
