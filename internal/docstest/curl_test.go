// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestMain lets the test's binary act as the curl of the documentation, so
// that it needs none, and finds the node of the test behind localhost:6470.
func TestMain(m *testing.M) {
	if address, ok := os.LookupEnv("DOCSTEST_HTTP"); ok {
		if err := curl(os.Args[1:], address, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// curl does what the documentation uses of curl: -s, -i, -X and -d, and one
// URL on localhost:6470.
func curl(args []string, address string, out io.Writer) error {
	var method, body, path string
	var headers bool
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "-s":
		case arg == "-i", arg == "-si":
			headers = true
		case arg == "-X" && len(args) > 0:
			method, args = args[0], args[1:]
		case arg == "-d" && len(args) > 0:
			body, args = args[0], args[1:]
		case strings.HasPrefix(arg, "localhost:6470/"):
			path = strings.TrimPrefix(arg, "localhost:6470")
		default:
			return fmt.Errorf("argument %q is not supported", arg)
		}
	}
	if path == "" {
		return errors.New("no URL")
	}
	if method == "" {
		method = http.MethodGet
		if body != "" {
			method = http.MethodPost
		}
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost:6470\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n", method, path)
	if body != "" {
		request += fmt.Sprintf("Content-Length: %d\r\nContent-Type: application/x-www-form-urlencoded\r\n", len(body))
	}
	if _, err := io.WriteString(conn, request+"\r\n"+body); err != nil {
		return err
	}
	var raw bytes.Buffer
	answer, err := http.ReadResponse(bufio.NewReader(io.TeeReader(conn, &raw)), nil)
	if err != nil {
		return err
	}
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if headers {
		head, _, _ := strings.Cut(raw.String(), "\r\n\r\n")
		if _, err := fmt.Fprintf(out, "%s\n\n", strings.ReplaceAll(head, "\r\n", "\n")); err != nil {
			return err
		}
	}
	_, err = out.Write(content)
	return err
}
