// etcd, from its published module: for the tests of Waypost, where no etcd of this version is at hand. `cargo xtask etcd` builds it.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
