// SPDX-License-Identifier: Apache-2.0

package pricelist

import (
	"encoding/json"
	"errors"
	"math/big"
	"regexp"
)

// number is the syntax of a JSON number whose exponent is small, so that the exact value
// is, too.
var number = regexp.MustCompile(`^-?[0-9]{1,30}(\.[0-9]{1,60})?([eE][+-]?0*[0-9]{1,2})?$`)

// exact returns the value of a JSON number. No float64 is involved, which has no 1.5e-07.
func exact(n json.Number) (*big.Rat, error) {
	if !number.MatchString(n.String()) {
		return nil, errors.New("has too many digits")
	}
	r, ok := new(big.Rat).SetString(n.String())
	switch {
	case !ok:
		return nil, errors.New("is not a number")
	case r.Sign() < 0:
		return nil, errors.New("is negative")
	}
	return r, nil
}

// scaled returns r times a scale, rounded up, and whether it had to be rounded.
func scaled(r *big.Rat, scale int64) (n *big.Int, rounded bool) {
	product := new(big.Rat).Mul(r, new(big.Rat).SetInt64(scale))
	q, m := new(big.Int).QuoRem(product.Num(), product.Denom(), new(big.Int))
	if m.Sign() == 0 {
		return q, false
	}
	return q.Add(q, big.NewInt(1)), true
}
