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
	"slices"
	"strings"
	"testing"
)

// TestMain lets the test's binary act as curl, which maps the documented ports of
// localhost to the nodes of the test.
func TestMain(m *testing.M) {
	if addresses, ok := os.LookupEnv("DOCSTEST_ADDRESSES"); ok {
		if err := curl(os.Args[1:], strings.Fields(addresses), os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "curl:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// curl implements the options of curl that the documents use: -s, -i, -X, -d, -H and
// one URL on localhost. addresses are pairs of a documented and an actual address.
func curl(args, addresses []string, out io.Writer) error {
	var method, body, host, path, more string
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
		case arg == "-H" && len(args) > 0:
			more, args = more+args[0]+"\r\n", args[1:]
		case strings.HasPrefix(arg, "localhost:"):
			host, path, _ = strings.Cut(arg, "/")
			path = "/" + path
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
	documented := strings.Replace(host, "localhost", "127.0.0.1", 1)
	at := slices.Index(addresses, documented)
	if at < 0 {
		return fmt.Errorf("%s is not a documented address", host)
	}
	conn, err := net.Dial("tcp", addresses[at+1])
	if err != nil {
		return err
	}
	defer conn.Close()
	request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n%s", method, path, host, more)
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
