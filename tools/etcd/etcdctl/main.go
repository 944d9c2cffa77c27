// etcdctl, from its published module, of the same version as the etcd beside it.
package main

import "go.etcd.io/etcd/etcdctl/v3/ctlv3"

func main() {
	ctlv3.MustStart()
}
