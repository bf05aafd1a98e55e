package lab

func init() { cleanUps = 2 }
