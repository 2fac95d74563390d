// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package local

import (
	"errors"
	"os"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return nil }

func interrupt(*os.Process) error { return errors.ErrUnsupported }
func suspend(*os.Process) error   { return errors.ErrUnsupported }
func resume(*os.Process) error    { return nil }
