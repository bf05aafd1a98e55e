package spawn

// amd64 is 1 on that architecture; constants are computed with it.
const amd64 = 0
