package mem_test

import (
	"testing"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/objstore/storetest"
)

func TestStore(t *testing.T) {
	storetest.Suite{Open: func(*testing.T) objstore.Store { return mem.New() }}.Run(t)
}
