// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// junitSuites and the types below are the part of JUnit's XML that CI systems read.
type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"` // the file
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr"`
	Failure *junitFailure `xml:"failure,omitempty"`
	Output  string        `xml:"system-out,omitempty"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// JUnit returns the report as XML in the form of JUnit: a suite for each file, and a case for
// each scenario.
func (r Report) JUnit() ([]byte, error) {
	all := junitSuites{Tests: r.Passed + r.Failed, Failures: r.Failed}
	for _, result := range r.Results {
		if n := len(all.Suites); n == 0 || all.Suites[n-1].Name != result.File {
			all.Suites = append(all.Suites, junitSuite{Name: result.File})
		}
		suite := &all.Suites[len(all.Suites)-1]
		c := junitCase{Name: result.Name, Class: result.File, File: result.File, Line: result.Line, Output: strings.Join(result.Log, "\n")}
		suite.Tests++
		if len(result.Failures) > 0 {
			suite.Failures++
			var text strings.Builder
			for _, f := range result.Failures {
				fmt.Fprintf(&text, "%s:%d:%d: step %d, %s\n", f.File, f.Line, f.Column, f.Step, f.Message)
			}
			c.Failure = &junitFailure{Message: result.Failures[0].Message, Text: text.String()}
		}
		suite.Cases = append(suite.Cases, c)
	}
	out, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write JUnit XML: %w", err)
	}
	return append([]byte(xml.Header), append(out, '\n')...), nil
}
