// Command etcdctl is etcd's own client, unmodified, at the version whose API
// octopiid speaks. It is a module of its own because etcdctl needs libraries
// that Octopii does not.
package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() { ctlv3.MustStart() }
